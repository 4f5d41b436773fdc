"""What the objectives on pairs have in common: who is chosen, who is rejected, and what is logged of them."""

from __future__ import annotations

import abc

from torch import Tensor

from redi_lab.data.packing import Batch
from redi_lab.losses.logps import SequenceLogps
from redi_lab.modules.base import CausalLMModule


class PreferenceModule(CausalLMModule):
    """An objective on (prompt, chosen, rejected), averaged over the pairs of the global batch."""

    sequences_per_example = 2

    @abc.abstractmethod
    def pair_losses(
        self, chosen: SequenceLogps, rejected: SequenceLogps, reference: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """(n,) loss of each pair; `reference` holds (n,) log π_ref of chosen and of rejected."""

    @abc.abstractmethod
    def rewards(self, sequences: SequenceLogps, reference_logps: Tensor | None) -> Tensor:
        """(2n,) the quantity whose difference the objective widens."""

    def example_losses(self, sequences: SequenceLogps, reference_logps: Tensor | None) -> Tensor:
        """(n,) loss of each pair of the 2n interleaved sequences."""
        reference = None if reference_logps is None else (reference_logps[0::2], reference_logps[1::2])
        return self.pair_losses(*_split(sequences), reference)

    def normalizer(self, batch: Batch) -> int:
        """The pairs of the global batch."""
        return batch.num_examples

    def metrics(self, sequences: SequenceLogps, reference_logps: Tensor | None) -> dict[str, Tensor]:
        """Mean log-probs (summed and per token) of both sides, and the rewards' margins and accuracies."""
        chosen, rejected = _split(sequences)
        rewards = self.rewards(sequences, reference_logps)
        margins = rewards[0::2] - rewards[1::2]
        return {
            "logps/chosen": chosen.logps.mean(),
            "logps/rejected": rejected.logps.mean(),
            "mean_logps/chosen": chosen.mean_logps.mean(),
            "mean_logps/rejected": rejected.mean_logps.mean(),
            "rewards/chosen": rewards[0::2].mean(),
            "rewards/rejected": rewards[1::2].mean(),
            "rewards/margins": margins.mean(),
            "rewards/accuracies": (margins > 0).float().mean(),
        }


def _split(sequences: SequenceLogps) -> tuple[SequenceLogps, SequenceLogps]:
    """Chosen and rejected of interleaved sequences."""
    logps, lengths = sequences
    return SequenceLogps(logps[0::2], lengths[0::2]), SequenceLogps(logps[1::2], lengths[1::2])
