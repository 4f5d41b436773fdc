"""Policy gradient on correct and incorrect traces, averaged over tokens."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from redi_lab.data.packing import Batch
from redi_lab.losses.policy_gradient import w_reinforce_loss
from redi_lab.modules.base import CausalLMModule
from redi_lab.modules.examples import Examples


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
