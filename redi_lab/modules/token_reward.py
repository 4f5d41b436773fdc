"""A token reward model: a scalar head on the backbone, which learns from verdicts on whole traces."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from redi_lab.data.packing import Batch, MicroBatch
from redi_lab.losses.token_reward import token_reward_loss
from redi_lab.modules.base import CausalLMModule
from redi_lab.modules.examples import Examples


@final
class TokenRewardModule(CausalLMModule):
    """See `token_reward_loss`, averaged over the traces of the global batch.

    Its sums over tokens are of scores instead of log-probs. The head begins at zero, so the first loss is log 2. The
    backbone learns to score and no longer to write.
    """

    is_linear = False
    is_separable = True
    task = "unpaired"

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.backbone.add_reward_head()

    def token_values(self, micro: MicroBatch) -> Tensor:
        """(N,) scores."""
        return self.backbone.token_scores(micro)

    def loss(self, examples: Examples, batch: Batch) -> Tensor:
        """() their share of the mean over the batch's traces."""
        losses = token_reward_loss(examples.sequences, examples.is_chosen)
        return examples.sequences.total(losses) / batch.num_examples

    def metrics(self, examples: Examples) -> dict[str, Tensor]:
        """Mean scores of both sides, and the share of the traces whose score has the sign of their verdict."""
        found = (examples.sequences.mean_logps > 0) == examples.is_chosen
        sides = {"chosen": examples.chosen, "rejected": examples.rejected}
        means = {f"scores/{name}": side.mean_logps.mean() for name, side in sides.items()}
        return means | {"scores/accuracy": found.float().mean()}
