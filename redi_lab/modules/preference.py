"""Objectives on pairs: each names one function of `redi_lab.losses`, whose settings are its own.

A sum over sequences gets the head's gradient in one pass over the vocabulary, with each sequence as a group, and so
does what depends on a pair through one linear form of its log-probs. What couples the sides otherwise projects a second
time in the backward pass (`head_gradient="recompute"`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor

from redi_lab.data.packing import Batch
from redi_lab.losses.sequences import SequenceLogps
from redi_lab.modules.base import CausalLMModule
from redi_lab.modules.examples import Examples


class PreferenceModule(CausalLMModule):
    """An objective on (prompt, chosen, rejected), averaged over the pairs of the global batch; abstract.

    Args:
        **options: the keyword arguments of `pair_loss`, and those of `CausalLMModule`.
    """

    task = "pairs"
    is_linear = False
    is_logistic: ClassVar[bool] = False
    """Whether the loss of a pair is −log σ of its margin, which saturates as the margin grows."""
    pair_loss: ClassVar[Callable[..., Tensor]]
    """From chosen and rejected to the (n,) loss of each pair."""

    def __init__(self, **options: Any) -> None:
        parameters = inspect.signature(type(self).pair_loss).parameters.values()
        settings = {p.name: options.pop(p.name) for p in parameters if p.kind is p.KEYWORD_ONLY}
        super().__init__(**options)
        self.setting_names = tuple(settings)
        for name, value in settings.items():  # attributes, as those of other modules: a rollback may lower `alpha`
            setattr(self, name, value)

    def pair_losses(self, sequences: SequenceLogps) -> Tensor:
        """(n,) loss of each pair of 2n sequences, of which the chosen one comes first."""
        # By place, not by `is_chosen`: to know how many a mask selects, one has to wait for a GPU.
        chosen, rejected = (sequences.at(slice(side, None, 2)) for side in (0, 1))
        settings = {name: getattr(self, name) for name in self.setting_names}
        if "alpha" in settings:
            settings["alpha"] *= self.negative_strength
        return type(self).pair_loss(chosen, rejected, **settings)

    def rewards(self, sequences: SequenceLogps) -> Tensor:
        """(n,) what the objective widens between chosen and rejected: log-probs per token, or log π/π_ref."""
        return sequences.log_ratios if self.needs_reference else sequences.mean_logps

    def loss(self, examples: Examples, batch: Batch) -> Tensor:
        """() their share of the mean over the pairs of the global batch."""
        sequences = examples.sequences
        return sequences.at(slice(0, None, 2)).total(self.pair_losses(sequences)) / batch.num_examples

    def metrics(self, examples: Examples) -> dict[str, Tensor]:
        """Mean log-probs (summed and per token) of both sides, the rewards' margins and accuracies, and the slope."""
        rewards = self.rewards(examples.sequences)
        chosen, rejected = rewards[examples.is_chosen], rewards[~examples.is_chosen]
        slope = {}
        if self.is_logistic:  # σ(−margin) = 1 − e^(−loss): what is left of the gradient of the margin
            slope = {"rewards/slope": -torch.expm1(-self.pair_losses(examples.sequences)).mean()}
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
