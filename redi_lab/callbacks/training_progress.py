"""The bar of a training: its optimizer steps, the time left, and speed and loss of the last step.

Lightning's own bars count one epoch, and show no time left if a step takes longer than half a minute.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.progress import Progress, TextColumn
from torch import Tensor

COLUMN = TextColumn("{task.fields[numbers]}")
_NUMBERS = {"train/loss": "loss {:.3f}", "train/tokens_per_second": "{:,.0f} tokens/s"}


@final
class TrainingProgress(ProgressBar):
    """One bar over all epochs, or up to `max_steps`.

    Args:
        progress: with `COLUMN` among its columns, not started yet.
    """

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self._progress = progress

    def disable(self) -> None:
        """Show nothing, as on ranks other than zero."""
        self._progress.disable = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the bar; that of a resumed training begins where it had stopped."""
        steps = trainer.estimated_stepping_batches
        total = None if steps == float("inf") else int(steps)
        self._progress.add_task("Training", total=total, completed=trainer.global_step, numbers="")
        self._progress.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Advance the bar, and show what the step has logged."""
        (task,) = self._progress.task_ids
        self._progress.update(task, completed=trainer.global_step, numbers=_numbers(trainer.callback_metrics))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the bar as it stands."""
        self._progress.stop()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Give the terminal back."""
        self._progress.stop()


def _numbers(metrics: Mapping[str, Tensor]) -> str:
    return " ".join(form.format(float(metrics[name])) for name, form in _NUMBERS.items() if name in metrics)
