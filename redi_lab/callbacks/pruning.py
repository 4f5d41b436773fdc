"""Reports to a sweep how a trial is going, and ends it when the sweep says so.

    PruningCallback("val/pass_at_1", report)

`report` is Optuna's `trial.report` and `trial.should_prune` in one; nothing here knows Optuna.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import pytorch_lightning as pl
import torch

from redi_lab.callbacks.stopping import Stop, StoppingCallback


@final
class PruningCallback(StoppingCallback):
    """Reports each new measurement of a metric; it has to come after the callback that measures.

    Args:
        metric: its name in `trainer.callback_metrics`, such as val/pass_at_1 or val/loss.
        report: from the value and its step, the number of optimizer steps taken, to whether training should end.
    """

    def __init__(self, metric: str, report: Callable[[float, int], bool]) -> None:
        self.metric = metric
        self.measurements: dict[int, float] = {}
        self.planned_steps = 0
        self.last_step = 0
        self._report = report
        self._seen: torch.Tensor | None = None

    def state_dict(self) -> dict[str, Any]:
        """What has been reported already."""
        return {"measurements": {str(step): value for step, value in self.measurements.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what was reported, possibly to another listener."""
        self.measurements = {int(step): value for step, value in state_dict["measurements"].items()}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report what was measured before an interruption, and what training starts from, if that is measured."""
        self.planned_steps = int(trainer.estimated_stepping_batches)
        if trainer.is_global_zero:
            for step, value in self.measurements.items():
                self._report(value, step)
        if self.measurements:
            self._seen = trainer.callback_metrics.get(self.metric)  # reported under the step that it was measured at
        else:
            self._look(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report what was measured between two steps."""
        self._look(trainer)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report what validation measures."""
        self._look(trainer)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report the final state; there is nothing left to prune."""
        self.last_step = trainer.global_step
        self._look(trainer, may_stop=False)

    def _look(self, trainer: pl.Trainer, may_stop: bool = True) -> None:
        value, step = trainer.callback_metrics.get(self.metric), trainer.global_step
        if value is None or value is self._seen:
            return
        self._seen = value
        if step in self.measurements:
            return
        self.measurements[step] = float(value)
        # One rank reports, all obey.
        should_end = self._report(float(value), step) if trainer.is_global_zero else False
        if trainer.strategy.broadcast(should_end) and may_stop:
            self.end_training(
                trainer, Stop("pruner", step, f"{self.metric} of {float(value):.4g} is behind other trials")
            )
