"""Reinforcement distillation from unequal numbers of correct and incorrect traces, which need not share problems."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from redi_lab.data.packing import Batch
from redi_lab.losses.unpaired_redi import unpaired_redi_loss
from redi_lab.modules.base import CausalLMModule
from redi_lab.modules.examples import Examples


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
