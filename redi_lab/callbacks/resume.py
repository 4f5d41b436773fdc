"""Training that goes on where it was killed, as if nothing had happened.

Every so often, and on SIGTERM, SIGINT or SIGUSR1, `TrainingStates` writes the whole state between two batches. A
training that finds states in its folder starts from the newest whole one: same batches, same random numbers, same
weights, to the bit on a CPU.
"""

from __future__ import annotations

import logging
import shutil
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, final

import pytorch_lightning as pl
import torch

from redi_lab.callbacks.training_state import (
    DamagedStateError,
    Position,
    load_state,
    read_position,
    restore_callbacks,
    restore_random_state,
    save_state,
    verify_state,
)
from redi_lab.errors import RunInterruptedError

_LOG = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # the last is what SLURM is often told to warn with


@final
class TrainingStates(pl.Callback):
    """Saves the state of training as `folder/step-N`, and resumes from the newest one that is there.

    Put it first among the callbacks: the others' states must be there before they begin. The data module must be able
    to start in the middle of an epoch (`start_at`).

    Args:
        folder: where states go; what is in it belongs to this very training.
        every_n_steps: batches between two states; None: time alone decides.
        every_minutes: minutes between two states; None: steps alone decide. With both None, only a signal saves.
        keep_last: how many states are kept. With two, one may be damaged.
    """

    def __init__(
        self,
        folder: Path,
        every_n_steps: int | None = None,
        every_minutes: float | None = 10.0,
        keep_last: int = 2,
    ) -> None:
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.every_minutes = every_minutes
        self.keep_last = keep_last
        self.signal: signal.Signals | None = None
        self._resume_from: Path | None = None
        self._saved_at: int | None = None
        self._clock = time.monotonic()

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find the state to resume from, and let the data begin behind the batches that it has seen."""
        if trainer.is_global_zero:
            for torn in self.folder.glob(".*.partial"):
                shutil.rmtree(torn, ignore_errors=True)
        self._resume_from = trainer.strategy.broadcast(newest_state(self.folder) if trainer.is_global_zero else None)
        if self._resume_from is not None:
            position = read_position(self._resume_from)
            trainer.datamodule.start_at(position.epoch, position.batch)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Restore the saved state, all but what the first batch would change; listen to signals."""
        self._clock = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:  # Lightning's own handlers end without saving; it puts back what was there before
                signal.signal(number, self._note)
        if self._resume_from is not None:
            load_state(trainer, pl_module, self._resume_from)
            restore_callbacks(trainer, self._resume_from)
            _enter_epoch(trainer, read_position(self._resume_from))

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Save if that is due: all that belongs to the batch before is done now, validation and logs included."""
        if self._resume_from is not None:
            position = read_position(self._resume_from)
            _enter_batch(trainer, position)
            restore_random_state(trainer, self._resume_from)
            self._resume_from, self._saved_at = None, position.total_batches
        position = Position.of(trainer)
        is_interrupted = _on_any_rank(trainer, self.signal is not None)
        if position.total_batches != self._saved_at and (is_interrupted or self._is_due(trainer, position)):
            self._save(trainer, pl_module, position)
        if is_interrupted:
            name = "a signal to another rank" if self.signal is None else self.signal.name
            raise RunInterruptedError(f"{name}: the state after {position.total_batches} steps is saved")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """End the record of an interrupted run as such: Lightning would call it failed."""
        if isinstance(exception, RunInterruptedError):
            for logger in trainer.loggers:
                logger.finalize("interrupted")

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise RunInterruptedError("SIGINT, twice: the state was not saved, an older one may be there")
        self.signal = signal.Signals(number)
        if not torch.distributed.is_initialized():  # else the command that started the ranks has heard it, too
            print(f"\nredi_lab: {self.signal.name}: saving the state after this step", file=sys.stderr)

    def _is_due(self, trainer: pl.Trainer, position: Position) -> bool:
        if self.every_n_steps is not None and position.total_batches % self.every_n_steps == 0:
            return position.total_batches > 0
        if self.every_minutes is None:
            return False
        return _on_any_rank(trainer, time.monotonic() - self._clock >= 60 * self.every_minutes)

    def _save(self, trainer: pl.Trainer, module: pl.LightningModule, position: Position) -> None:
        for logger in trainer.loggers:
            logger.save()  # what the state counts as logged must be on disk
        save_state(trainer, module, self.folder / f"step-{position.total_batches:08d}")
        self._saved_at, self._clock = position.total_batches, time.monotonic()
        if trainer.is_global_zero:
            for state in states_in(self.folder)[: -self.keep_last]:  # only now: as many newer ones are whole
                shutil.rmtree(state)


def states_in(folder: Path) -> list[Path]:
    """The states of a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def newest_state(folder: Path) -> Path | None:
    """The newest state that is whole; each newer one that is not is named in a warning."""
    for state in reversed(states_in(folder)):
        try:
            verify_state(state)
        except DamagedStateError as error:
            _LOG.warning("%s; going on from the state before it", error)
        else:
            return state
    return None


def _enter_epoch(trainer: pl.Trainer, position: Position) -> None:
    """Set Lightning's loops to the epoch that is to begin. Its own restart logic skips a validation that is due."""
    loop = trainer.fit_loop
    steps = loop.epoch_loop.manual_optimization.optim_step_progress.total
    steps.ready = steps.completed = position.global_step
    loop.epoch_loop._batches_that_stepped = position.total_batches
    for progress in (loop.epoch_progress.total, loop.epoch_progress.current):
        progress.ready = progress.started = progress.processed = progress.completed = position.epoch
    batches, before = loop.epoch_loop.batch_progress.total, position.total_batches - position.batch
    batches.ready = batches.started = batches.processed = batches.completed = before


def _enter_batch(trainer: pl.Trainer, position: Position) -> None:
    """Set them to the batch that has just been fetched, which is not the first one of the epoch."""
    fetcher = trainer.fit_loop._data_fetcher
    fetcher.fetched += position.batch
    fetcher.done = fetcher.length is not None and fetcher.fetched >= fetcher.length
    trainer.fit_loop.epoch_loop.batch_progress.increment_by(position.batch, is_last_batch=fetcher.done)


def _on_any_rank(trainer: pl.Trainer, decision: bool) -> bool:
    """Clocks and signals differ between ranks, which must save and stop together."""
    if trainer.world_size == 1:
        return decision
    return bool(trainer.strategy.reduce_boolean_decision(decision, all=False))
