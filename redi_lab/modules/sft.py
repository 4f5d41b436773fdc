"""Supervised fine-tuning on correct traces (stage 1)."""

from __future__ import annotations

from typing import final

from torch import Tensor

from redi_lab.data.packing import Batch
from redi_lab.losses.logps import SequenceLogps
from redi_lab.losses.sft import sft_loss
from redi_lab.modules.base import CausalLMModule


@final
class SFTModule(CausalLMModule):
    """Eq. 1, averaged over the completion tokens of the global batch."""

    is_linear = True

    def example_losses(self, sequences: SequenceLogps, reference_logps: Tensor | None) -> Tensor:
        """(n,) −log π(y_w|x)."""
        return sft_loss(sequences)

    def normalizer(self, batch: Batch) -> int:
        """The completion tokens of the global batch."""
        return batch.num_completion_tokens

    def metrics(self, sequences: SequenceLogps, reference_logps: Tensor | None) -> dict[str, Tensor]:
        """Mean log-probs, summed and per token."""
        return {"logps/chosen": sequences.logps.mean(), "mean_logps/chosen": sequences.mean_logps.mean()}
