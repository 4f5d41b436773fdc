"""OREAL's policy loss: advantages from the verdicts of a problem, each side averaged over its own tokens."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from redi_lab.data.packing import Batch
from redi_lab.losses.policy_gradient import oreal_loss
from redi_lab.modules.base import CausalLMModule
from redi_lab.modules.examples import Examples


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
            chosen_length=batch.total_length - batch.rejected_length,
            rejected_length=batch.rejected_length,
        )
