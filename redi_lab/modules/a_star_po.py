"""A*-PO on correct and incorrect traces that need not pair up."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from redi_lab.data.packing import Batch
from redi_lab.losses.a_star_po import a_star_po_loss
from redi_lab.modules.base import CausalLMModule
from redi_lab.modules.examples import Examples


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
