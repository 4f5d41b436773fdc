"""What the objectives on pairs have in common: which side is chosen, and what is logged about both."""

from __future__ import annotations

import abc

from torch import Tensor

from redi_lab.data.packing import Batch
from redi_lab.losses.sequences import SequenceLogps
from redi_lab.modules.base import CausalLMModule
from redi_lab.modules.examples import Examples


class PreferenceModule(CausalLMModule):
    """An objective on (prompt, chosen, rejected), averaged over the pairs of the global batch."""

    task = "pairs"

    @abc.abstractmethod
    def pair_losses(self, chosen: SequenceLogps, rejected: SequenceLogps) -> Tensor:
        """(n,) loss of each pair."""

    @abc.abstractmethod
    def rewards(self, sequences: SequenceLogps) -> Tensor:
        """(n,) the quantity whose difference between chosen and rejected the objective widens."""

    def loss(self, examples: Examples, batch: Batch) -> Tensor:
        """() their share of the mean over the pairs of the global batch."""
        # By place, not by `is_chosen`: to know how many a mask selects, one has to wait for a GPU.
        chosen, rejected = (examples.sequences.at(slice(side, None, 2)) for side in (0, 1))
        return chosen.total(self.pair_losses(chosen, rejected)) / batch.num_examples

    def metrics(self, examples: Examples) -> dict[str, Tensor]:
        """Mean log-probs (summed and per token) of both sides, and the rewards' margins and accuracies."""
        rewards = self.rewards(examples.sequences)
        chosen, rejected = rewards[examples.is_chosen], rewards[~examples.is_chosen]
        return super().metrics(examples) | {
            "rewards/chosen": chosen.mean(),
            "rewards/rejected": rejected.mean(),
            "rewards/margins": (chosen - rejected).mean(),
            "rewards/accuracies": (chosen > rejected).float().mean(),
        }
