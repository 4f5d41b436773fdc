"""`trained.json`: that a stage's training is done, so that a run killed during evaluation does not train again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, final

import pytorch_lightning as pl

from redi_lab.callbacks.collapse import collapse_summary
from redi_lab.callbacks.forecast import plan_outcome
from redi_lab.callbacks.numerics import num_skipped
from redi_lab.callbacks.resume import TrainingStates
from redi_lab.callbacks.stopping import Stop, first_stop
from redi_lab.errors import RunInterruptedError
from redi_lab.evaluation.results import checkpoint_hash
from redi_lab.run.record import write_json

_FILE = "trained.json"
STATES = "states"
"""The folder of training states inside a stage's folder."""


@final
@dataclass(frozen=True)
class Trained:
    """How a training ended.

    Attributes:
        global_step: optimizer steps taken.
        stop: what ended it early.
        collapse: the collapse detector's summary, see `collapse_summary`.
        num_skipped: batches that were left out for their numbers.
        checkpoint_hash: of its last checkpoint.
        plan: planned and measured, see `plan_outcome`.
    """

    global_step: int
    stop: Stop | None
    collapse: dict[str, Any] | None
    num_skipped: int
    checkpoint_hash: str
    plan: dict[str, float] = field(default_factory=dict)

    @property
    def is_reusable(self) -> bool:
        """Whether it is the whole training that the fingerprint names: without early stops, skips and rollbacks."""
        return self.stop is None and not self.num_skipped and not (self.collapse and self.collapse["rollbacks"])


def find_trained(folder: Path, checkpoint: Path) -> Trained | None:
    """How the training of a stage's folder ended; None if it did not, or its checkpoint has changed."""
    try:
        content = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        stop = content["stop"]
        found = Trained(**content | {"stop": stop and Stop(**stop)})
        return found if checkpoint_hash(checkpoint) == found.checkpoint_hash else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def finish_training(folder: Path, checkpoint: Path, trainer: pl.Trainer, callbacks: Iterable[pl.Callback]) -> Trained:
    """Record that training is done, and remove its states, which only training needs.

    Raises:
        RunInterruptedError: a signal came after the last state could be saved.
    """
    callbacks = list(callbacks)
    trained = Trained(
        trainer.global_step,
        first_stop(callbacks),
        collapse_summary(callbacks),
        num_skipped(callbacks),
        checkpoint_hash(checkpoint),
        plan_outcome(callbacks),
    )
    write_json(folder / _FILE, asdict(trained))
    shutil.rmtree(folder / STATES, ignore_errors=True)
    for callback in callbacks:
        if isinstance(callback, TrainingStates) and callback.signal is not None:
            raise RunInterruptedError(f"{callback.signal.name}: the trained policy is saved")
    return trained
