"""Supervised fine-tuning on correct traces (stage 1)."""

from __future__ import annotations

from typing import final

from torch import Tensor

from redi_lab.data.packing import Batch
from redi_lab.losses.sft import sft_loss
from redi_lab.modules.base import CausalLMModule
from redi_lab.modules.examples import Examples


@final
class SFTModule(CausalLMModule):
    """Eq. 1, averaged over the completion tokens of the global batch."""

    is_linear = True
    task = "demonstrations"

    def loss(self, examples: Examples, batch: Batch) -> Tensor:
        """() their share of the mean of −log π over the completion tokens of the global batch."""
        return examples.sequences.total(sft_loss(examples.sequences)) / batch.total_length

    def averaged_over(self, batch: Batch) -> int:
        """The completion tokens of the global batch."""
        return round(batch.total_length)

    def metrics(self, examples: Examples) -> dict[str, Tensor]:
        """Mean log-probs, summed and per token."""
        sequences = examples.sequences.unweighted
        return {"logps/chosen": sequences.logps.mean(), "mean_logps/chosen": sequences.mean_logps.mean()}
