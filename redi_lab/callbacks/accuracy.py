"""val/pass_at_1: accuracy against steps, as in the paper's figures, on problems that nothing else is judged on.

`redi_lab.run.build` injects the function that generates and grades with the policy in memory; see
`redi_lab.evaluation.policy_accuracy`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, final

import pytorch_lightning as pl

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.callbacks.measuring import measuring, record

DEFAULT_MEASUREMENTS = 10
"""How often a training is measured that names no interval."""


@final
class InTrainingAccuracy(pl.Callback):
    """Logs what `measure` says as `val/NAME`, before the first step, each n steps, and after the last one.

    Training is the same to the bit with it and without. With several ranks the first one measures for all.

    Args:
        measure: from the policy, in evaluation mode, to named numbers such as `pass_at_1`.
        every_n_steps: optimizer steps between two measurements; None: a tenth of the training.

    Raises:
        ValueError: `every_n_steps` is not positive.
    """

    def __init__(self, measure: Callable[[CausalLM], Mapping[str, float]], every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and every_n_steps < 1:
            raise ValueError(f"InTrainingAccuracy: every_n_steps must be None or at least 1, got {every_n_steps}")
        self._measure = measure
        self._asked_interval = every_n_steps
        self._interval = every_n_steps or 1
        self._last_step: int | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure what training starts from; a resumed run has done so."""
        self._interval = self._asked_interval or math.ceil(trainer.estimated_stepping_batches / DEFAULT_MEASUREMENTS)
        if trainer.global_step == 0:
            self._log_accuracy(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure at the interval."""
        if trainer.global_step % self._interval == 0:
            self._log_accuracy(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the final state, where the interval has not just done so."""
        if self._last_step != trainer.global_step:
            self._log_accuracy(trainer, pl_module)

    def _log_accuracy(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self._last_step = trainer.global_step
        with measuring(trainer, module):
            metrics = self._measure(module.backbone) if trainer.is_global_zero else None
        metrics = trainer.strategy.broadcast(metrics)
        record(trainer, {f"val/{name}": value for name, value in metrics.items()}, trainer.global_step)
