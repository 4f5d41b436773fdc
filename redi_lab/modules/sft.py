"""Supervised fine-tuning on correct traces (stage 1)."""

from __future__ import annotations

from typing import final

from torch import Tensor

from redi_lab.data.packing import Batch
from redi_lab.losses.sft import sft_loss
from redi_lab.modules.base import CausalLMModule, Examples


@final
class SFTModule(CausalLMModule):
    """Eq. 1, averaged over the completion tokens of the global batch."""

    is_linear = True
    task = "demonstrations"

    def loss(self, examples: Examples, batch: Batch) -> Tensor:
        """() their share of the mean of −log π over the completion tokens of the global batch."""
        return sft_loss(examples.sequences).sum() / batch.num_completion_tokens

    def averaged_over(self, batch: Batch) -> int:
        """The completion tokens of the global batch."""
        return batch.num_completion_tokens

    def metrics(self, examples: Examples) -> dict[str, Tensor]:
        """Mean log-probs, summed and per token."""
        sequences = examples.sequences
        return {"logps/chosen": sequences.logps.mean(), "mean_logps/chosen": sequences.mean_logps.mean()}
