"""What callbacks share that look at the policy between two optimizer steps."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng

from redi_lab.backbone.causal_lm import CausalLM

DEFAULT_MEASUREMENTS = 10
"""How often a training without an interval is measured, apart from its start."""


class Measurement(pl.Callback, abc.ABC):
    """Logs what `measure` returns before the first step, each n steps, and after the last one.

    Training is the same to the bit with it and without: random states and the policy's mode are put back, and the time
    spent does not count as training.

    Args:
        every_n_steps: optimizer steps between two measurements; None: a tenth of the training.
    """

    def __init__(self, every_n_steps: int | None) -> None:
        self._every_n_steps = every_n_steps
        self._interval = every_n_steps or 1
        self._last_step: int | None = None

    @abc.abstractmethod
    def measure(self, trainer: pl.Trainer, policy: CausalLM) -> Mapping[str, float]:
        """Named numbers; the policy is in evaluation mode, without gradients, in the trainer's precision."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure what training starts from; a resumed run has done so."""
        self._interval = self._every_n_steps or math.ceil(trainer.estimated_stepping_batches / DEFAULT_MEASUREMENTS)
        if trainer.global_step == 0:
            self.measure_now(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Measure at the interval."""
        if trainer.global_step % self._interval == 0:
            self.measure_now(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Measure the final state, where the interval has not just done so."""
        if self._last_step != trainer.global_step:
            self.measure_now(trainer, pl_module)

    def measure_now(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Measure and log, whether or not it is time; with several ranks, every one has to ask for it."""
        self._last_step, policy = trainer.global_step, module.backbone
        was_training = policy.training
        policy.eval()
        try:
            with isolate_rng(), torch.no_grad(), trainer.precision_plugin.forward_context():
                metrics = self.measure(trainer, policy)
        finally:
            policy.train(was_training)
            module.restart_clock()
        record(trainer, metrics, trainer.global_step)


def record(trainer: pl.Trainer, metrics: Mapping[str, float], step: int) -> None:
    """Log metrics under `step`, the number of optimizer steps that the measured weights have behind them.

    `module.log` would name the step before, and cannot log anything before the first step. Other callbacks find the
    values in `trainer.callback_metrics`.
    """
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=step)
