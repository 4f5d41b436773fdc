"""Policy gradient on correct and incorrect traces, less a baseline."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from redi_lab.data.packing import Batch
from redi_lab.losses.policy_gradient import asymre_loss
from redi_lab.modules.base import CausalLMModule
from redi_lab.modules.examples import Examples


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
