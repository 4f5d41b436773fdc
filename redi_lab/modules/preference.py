"""What the objectives on pairs have in common: who is chosen, who is rejected, and what is logged of them."""

from __future__ import annotations

import abc

from torch import Tensor

from redi_lab.data.packing import Batch
from redi_lab.losses.logps import SequenceLogps
from redi_lab.modules.base import CausalLMModule, Examples


class PreferenceModule(CausalLMModule):
    """An objective on (prompt, chosen, rejected), averaged over the pairs of the global batch."""

    task = "pairs"

    @abc.abstractmethod
    def pair_losses(
        self, chosen: SequenceLogps, rejected: SequenceLogps, reference: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """(n,) loss of each pair; `reference` holds (n,) log π_ref of chosen and of rejected."""

    @abc.abstractmethod
    def rewards(self, sequences: SequenceLogps, reference_logps: Tensor | None) -> Tensor:
        """(2n,) the quantity whose difference the objective widens."""

    def loss(self, examples: Examples, batch: Batch) -> Tensor:
        """() their share of the mean over the pairs of the global batch."""
        # By place, not by `is_chosen`: how many a mask selects is a question that a GPU has to be waited for.
        chosen, rejected = (SequenceLogps(*(values[side::2] for values in examples.sequences)) for side in (0, 1))
        reference = examples.reference_logps
        sides = None if reference is None else (reference[0::2], reference[1::2])
        return self.pair_losses(chosen, rejected, sides).sum() / batch.num_examples

    def metrics(self, examples: Examples) -> dict[str, Tensor]:
        """Mean log-probs (summed and per token) of both sides, and the rewards' margins and accuracies."""
        rewards = self.rewards(examples.sequences, examples.reference_logps)
        chosen, rejected = rewards[examples.is_chosen], rewards[~examples.is_chosen]
        return side_metrics(examples) | {
            "rewards/chosen": chosen.mean(),
            "rewards/rejected": rejected.mean(),
            "rewards/margins": (chosen - rejected).mean(),
            "rewards/accuracies": (chosen > rejected).float().mean(),
        }


def side_metrics(examples: Examples) -> dict[str, Tensor]:
    """Mean log-probs, summed and per token, of the chosen and of the rejected sequences."""
    sides = {"chosen": examples.chosen, "rejected": examples.rejected}
    summed = {f"logps/{name}": side.logps.mean() for name, side in sides.items()}
    return summed | {f"mean_logps/{name}": side.mean_logps.mean() for name, side in sides.items()}
