"""The other objectives on pairs: each is one function of `redi_lab.losses`, named by `loss.form`.

A form that is a sum over sequences (`separable`) gets the head's gradient in one pass over the vocabulary, with each
sequence as a group, and so does one that depends on a pair through one linear form of its log-probs. What couples the
sides otherwise projects a second time in the backward pass (`head_gradient="recompute"`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, final

from torch import Tensor

from redi_lab.losses import dpo_variants, separable
from redi_lab.losses.logps import SequenceLogps
from redi_lab.modules.preference import PreferenceModule


class Form(NamedTuple):
    """A loss of (chosen, rejected), or (chosen, rejected, reference), and the settings that it takes."""

    loss: Callable[..., Tensor]
    settings: tuple[str, ...] = ()
    needs_reference: bool = False
    is_one_form: bool = False
    """Of a coupled form: whether it depends on one linear form of the log-probs of a pair, as DPO does."""


SEPARABLE = {
    "simper": Form(separable.simper_loss),
    "bounded_redi": Form(separable.bounded_redi_loss, ("alpha", "gamma", "is_detached")),
    "gated_redi": Form(separable.gated_redi_loss, ("alpha", "kappa", "tau")),
    "hinge": Form(separable.hinge_loss, ("alpha", "delta")),
    "topr": Form(separable.topr_loss, ("alpha",), needs_reference=True),
    "npo": Form(separable.npo_loss, ("alpha", "beta"), needs_reference=True),
    "nca": Form(separable.nca_loss, ("beta",), needs_reference=True),
}
COUPLED = {
    "dpo_shift": Form(dpo_variants.dpo_shift_loss, ("beta", "alpha"), needs_reference=True, is_one_form=True),
    "rpo": Form(dpo_variants.rpo_loss, ("beta", "nll_weight"), needs_reference=True),
    "dpop": Form(dpo_variants.dpop_loss, ("beta", "penalty"), needs_reference=True),
    "cal_dpo": Form(dpo_variants.cal_dpo_loss, ("beta",), needs_reference=True),
}


class PairFormModule(PreferenceModule):
    """An objective that `form` names; abstract.

    Args:
        form: one of `forms`.
        **options: the form's settings, and those of `CausalLMModule`.
    """

    is_linear = False
    forms: ClassVar[dict[str, Form]]

    def __init__(self, *, form: str, **options: Any) -> None:
        self.form = self.forms[form]
        self.settings = {name: options.pop(name) for name in self.form.settings}
        super().__init__(**options)
        self.needs_reference = self.form.needs_reference

    def pair_losses(
        self, chosen: SequenceLogps, rejected: SequenceLogps, reference: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """(n,) loss of each pair."""
        extra = (reference,) if self.needs_reference else ()
        return self.form.loss(chosen, rejected, *extra, **self.settings)

    def rewards(self, sequences: SequenceLogps, reference_logps: Tensor | None) -> Tensor:
        """(2n,) log-probs per token, or log π/π_ref where there is a reference."""
        return sequences.mean_logps if reference_logps is None else sequences.logps - reference_logps


@final
class SeparableModule(PairFormModule):
    """A form of `redi_lab.losses.separable`."""

    forms = SEPARABLE
    is_separable = True
    head_gradient = "accumulate"


@final
class CoupledModule(PairFormModule):
    """A form of `redi_lab.losses.dpo_variants`."""

    forms = COUPLED

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.head_gradient = "accumulate" if self.form.is_one_form else "recompute"
