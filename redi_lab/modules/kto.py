"""KTO on correct and incorrect traces that need not pair up."""

from __future__ import annotations

from typing import Any, final

import torch
from torch import Tensor

from redi_lab.data.packing import Batch
from redi_lab.losses.kto import kto_loss
from redi_lab.losses.sequences import sum_by_sequence
from redi_lab.modules.base import CausalLMModule
from redi_lab.modules.examples import Examples, TokenSums


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
