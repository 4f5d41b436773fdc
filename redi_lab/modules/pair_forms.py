"""The further objectives on pairs: each module names one function of `redi_lab.losses` and its settings.

A sum over sequences gets the head's gradient in one pass over the vocabulary, with each sequence as a group, and so
does what depends on a pair through one linear form of its log-probs. What couples the sides otherwise projects a second
time in the backward pass (`head_gradient="recompute"`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from redi_lab.losses.sequences import SequenceLogps
from redi_lab.modules.preference import PreferenceModule


class PairFormModule(PreferenceModule):
    """An objective that is one function of the pairs; abstract.

    Args:
        **options: the keyword arguments of `pair_loss`, and those of `CausalLMModule`.
    """

    is_linear = False
    pair_loss: ClassVar[Callable[..., Tensor]]
    """From chosen and rejected to the (n,) loss of each pair."""

    def __init__(self, **options: Any) -> None:
        parameters = inspect.signature(type(self).pair_loss).parameters.values()
        settings = {p.name: options.pop(p.name) for p in parameters if p.kind is p.KEYWORD_ONLY}
        super().__init__(**options)
        self.setting_names = tuple(settings)
        for name, value in settings.items():  # attributes, as those of other modules: a rollback may lower `alpha`
            setattr(self, name, value)

    def pair_losses(self, chosen: SequenceLogps, rejected: SequenceLogps) -> Tensor:
        """(n,) loss of each pair."""
        settings = {name: getattr(self, name) for name in self.setting_names}
        if "alpha" in settings:
            settings["alpha"] *= self.negative_strength
        return type(self).pair_loss(chosen, rejected, **settings)

    def rewards(self, sequences: SequenceLogps) -> Tensor:
        """(n,) log-probs per token, or log π/π_ref where there is a reference."""
        return sequences.log_ratios if self.needs_reference else sequences.mean_logps


class SeparableModule(PairFormModule):
    """A function of `redi_lab.losses.separable`; abstract."""

    is_separable = True
    head_gradient = "accumulate"


class TokenLocalModule(PairFormModule):
    """A loss of `redi_lab.losses.token_local`; abstract."""

    is_linear = True
    has_token_term = True
