"""Objectives on any numbers of correct and incorrect traces, which need not pair up, nor share problems."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from redi_lab.data.packing import Batch
from redi_lab.losses.a_star_po import a_star_po_loss
from redi_lab.losses.kto import kto_loss
from redi_lab.losses.policy_gradient import asymre_loss, oreal_loss, w_reinforce_loss
from redi_lab.losses.sequences import sum_by_sequence
from redi_lab.losses.unpaired_redi import unpaired_redi_loss
from redi_lab.modules.base import CausalLMModule
from redi_lab.modules.examples import Examples, TokenSums


@final
class UnpairedREDIModule(CausalLMModule):
    """Eq. 5 with each term averaged over its own traces.

    Args:
        alpha: weight of the negative term, in [0, 1].
        **options: see `CausalLMModule`.
    """

    is_linear = True
    task = "unpaired"

    def __init__(self, *, alpha: float, **options: Any) -> None:
        super().__init__(**options)
        self.alpha = alpha

    def loss(self, examples: Examples, batch: Batch) -> Tensor:
        """() their share of −mean log π(y_w)/|y_w| + α·mean log π(y_l)/|y_l|."""
        return unpaired_redi_loss(
            examples.chosen,
            examples.rejected,
            alpha=self.alpha * self.negative_strength,
            num_chosen=batch.num_examples - batch.num_rejected,
            num_rejected=batch.num_rejected,
        )


@final
class WReinforceModule(CausalLMModule):
    """PSR, NSR, W-REINFORCE and NAT, see `w_reinforce_loss`.

    Args:
        positive_weight: λ₊ of correct traces.
        negative_weight: λ₋ of incorrect traces; below 0 they are imitated.
        **options: see `CausalLMModule`.
    """

    is_linear = True
    task = "unpaired"

    def __init__(self, *, positive_weight: float, negative_weight: float, **options: Any) -> None:
        super().__init__(**options)
        self.positive_weight = positive_weight
        self.negative_weight = negative_weight

    def loss(self, examples: Examples, batch: Batch) -> Tensor:
        """() their share of the mean over the batch's tokens."""
        return w_reinforce_loss(
            examples.chosen,
            examples.rejected,
            positive_weight=self.positive_weight,
            negative_weight=self.negative_weight * self.negative_strength,
            num_tokens=batch.total_length,
        )

    def averaged_over(self, batch: Batch) -> int:
        """Tokens."""
        return round(batch.total_length)


@final
class AsymREModule(CausalLMModule):
    """AsymRE, see `asymre_loss`.

    Args:
        baseline: V, or what is added to the problem's share of right traces to make it.
        is_relative: whether it is the latter.
        **options: see `CausalLMModule`.
    """

    is_linear = True
    task = "unpaired"

    def __init__(self, *, baseline: float, is_relative: bool, **options: Any) -> None:
        super().__init__(**options)
        self.baseline = baseline
        self.needs_pass_rates = is_relative

    def loss(self, examples: Examples, batch: Batch) -> Tensor:
        """() their share of the mean over the batch's traces."""
        return asymre_loss(
            examples.chosen,
            examples.rejected,
            baseline=self.baseline,
            num_sequences=batch.num_examples,
            is_relative=self.needs_pass_rates,
            strength=self.negative_strength,
        )


@final
class OREALModule(CausalLMModule):
    """OREAL, see `oreal_loss`; its divergence from the reference is `kl_weight`.

    Args:
        negative_weight: η of incorrect traces.
        **options: see `CausalLMModule`.
    """

    is_linear = True
    task = "unpaired"
    needs_pass_rates = True

    def __init__(self, *, negative_weight: float, **options: Any) -> None:
        super().__init__(**options)
        self.negative_weight = negative_weight

    def loss(self, examples: Examples, batch: Batch) -> Tensor:
        """() their share of the means over the batch's tokens."""
        return oreal_loss(
            examples.chosen,
            examples.rejected,
            negative_weight=self.negative_weight * self.negative_strength,
            num_chosen_tokens=batch.num_completion_tokens - batch.num_rejected_tokens,
            num_rejected_tokens=batch.num_rejected_tokens,
        )


@final
class AStarPOModule(CausalLMModule):
    """A*-PO, see `a_star_po_loss`, averaged over the traces of the global batch.

    Args:
        beta: β₂, scale of the log-ratios.
        value_beta: β₁, temperature of a problem's value.
        **options: see `CausalLMModule`.
    """

    is_linear = False
    is_separable = True
    head_gradient = "accumulate"
    needs_reference = True
    needs_pass_rates = True
    task = "unpaired"

    def __init__(self, *, beta: float, value_beta: float, **options: Any) -> None:
        super().__init__(**options)
        self.beta = beta
        self.value_beta = value_beta

    def loss(self, examples: Examples, batch: Batch) -> Tensor:
        """() their share of the mean over the batch's traces."""
        sequences, rewards = examples.sequences, examples.is_chosen.to(examples.sequences.logps.dtype)
        losses = a_star_po_loss(sequences, rewards, beta=self.beta, value_beta=self.value_beta)
        return sequences.total(losses) / batch.num_examples


@final
class KTOModule(CausalLMModule):
    """KTO, see `kto_loss`, averaged over the traces of the global batch.

    The point of reference z₀ is estimated as in the paper: the batch's mean log-ratio of completions of other problems
    under its prompts, and at least 0. That takes one more forward pass without gradients.

    Args:
        beta: β, scale of the log-ratios.
        chosen_weight: λ_D of correct traces.
        rejected_weight: λ_U of incorrect traces.
        **options: see `CausalLMModule`.
    """

    is_linear = False
    is_separable = True
    head_gradient = "accumulate"
    needs_reference = True
    needs_mismatched = True
    task = "unpaired"

    def __init__(self, *, beta: float, chosen_weight: float, rejected_weight: float, **options: Any) -> None:
        super().__init__(**options)
        self.beta = beta
        self.chosen_weight = chosen_weight
        self.rejected_weight = rejected_weight
        self.reference_point = torch.zeros(())

    def prepare(self, batch: Batch) -> None:
        """Estimate z₀ on all ranks' mismatched completions."""
        others = batch.mismatched
        if others is None or others.reference_logps is None:
            raise ValueError("KTO needs batches with mismatched completions and their reference")
        sums = torch.zeros_like(others.lengths)
        for micro, logps in self.backbone.token_logps(others):
            sums = sums + sum_by_sequence(logps, micro.sequence_index, len(sums))
        ratios = self.over_ranks(TokenSums(sums, sums)).logps - others.reference_logps
        self.reference_point = (ratios.sum() / batch.num_examples).clamp(min=0.0)

    def loss(self, examples: Examples, batch: Batch) -> Tensor:
        """() their share of the mean over the batch's traces."""
        losses = kto_loss(
            examples.sequences,
            examples.is_chosen,
            reference_point=self.reference_point,
            beta=self.beta,
            chosen_weight=self.chosen_weight,
            rejected_weight=self.rejected_weight * self.negative_strength,
        )
        return examples.sequences.total(losses) / batch.num_examples

    def metrics(self, examples: Examples) -> dict[str, Tensor]:
        """Mean log-probs (summed and per token) of both sides, and z₀."""
        return super().metrics(examples) | {"reference_point": self.reference_point}
