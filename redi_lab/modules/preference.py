"""What the objectives on pairs have in common: which side is chosen, and what is logged about both."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
from torch import Tensor

from redi_lab.data.packing import Batch
from redi_lab.losses.sequences import SequenceLogps
from redi_lab.modules.base import CausalLMModule
from redi_lab.modules.examples import Examples


class PreferenceModule(CausalLMModule):
    """An objective on (prompt, chosen, rejected), averaged over the pairs of the global batch."""

    task = "pairs"
    is_logistic: ClassVar[bool] = False
    """Whether the loss of a pair is −log σ of its margin, which saturates as the margin grows."""

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
        """Mean log-probs (summed and per token) of both sides, the rewards' margins and accuracies, and the slope."""
        rewards = self.rewards(examples.sequences)
        chosen, rejected = rewards[examples.is_chosen], rewards[~examples.is_chosen]
        slope = {}
        if self.is_logistic:  # σ(−margin) = 1 − e^(−loss): what is left of the gradient of the margin
            losses = self.pair_losses(*(examples.sequences.at(slice(side, None, 2)) for side in (0, 1)))
            slope = {"rewards/slope": -torch.expm1(-losses).mean()}
        return (
            super().metrics(examples)
            | slope
            | {
                "rewards/chosen": chosen.mean(),
                "rewards/rejected": rejected.mean(),
                "rewards/margins": (chosen - rejected).mean(),
                "rewards/accuracies": (chosen > rejected).float().mean(),
            }
        )
