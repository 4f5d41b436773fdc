"""val/pass_at_1: accuracy against steps, as in the paper's figures, on problems used for nothing else.

`redi_lab.run.build` injects the function that generates and grades with the policy in memory; see
`redi_lab.evaluation.policy_accuracy`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import final

import pytorch_lightning as pl

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.sharding import whole_policy
from redi_lab.callbacks.measuring import Measurement


@final
class InTrainingAccuracy(Measurement):
    """Logs what the function `measure` returns as `val/NAME`. With several ranks the first one measures for all.

    Args:
        measure: from the policy to named numbers such as `pass_at_1`.
        every_n_steps: optimizer steps between two measurements; None: a tenth of the training.
    """

    def __init__(self, measure: Callable[[CausalLM], Mapping[str, float]], every_n_steps: int | None) -> None:
        super().__init__(every_n_steps)
        self._measure_policy = measure

    def measure(self, trainer: pl.Trainer, policy: CausalLM) -> Mapping[str, float]:
        """The policy's scores, the same on every rank."""
        whole = whole_policy(trainer, policy, trainer.strategy.root_device)
        found = self._measure_policy(whole) if whole is not None and trainer.is_global_zero else None
        metrics = trainer.strategy.broadcast(found)
        return {f"val/{name}": value for name, value in metrics.items()}
