"""`trained.json`: that a stage's training is done, so that a run killed while it is judged does not train again."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, final

import pytorch_lightning as pl

from redi_lab.callbacks.collapse import collapse_summary
from redi_lab.callbacks.numerics import num_skipped
from redi_lab.callbacks.resume import TrainingStates, rotate
from redi_lab.callbacks.stopping import Stop, first_stop
from redi_lab.errors import RunInterruptedError
from redi_lab.evaluation.results import checkpoint_hash
from redi_lab.run.interrupted import write_json

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
        collapse: what the collapse detector says of it, see `collapse_summary`.
        num_skipped: batches that were left out for their numbers.
        checkpoint_hash: of its last checkpoint.
    """

    global_step: int
    stop: Stop | None
    collapse: dict[str, Any] | None
    num_skipped: int
    checkpoint_hash: str

    @property
    def is_reusable(self) -> bool:
        """Whether it is the whole training that the fingerprint names, which knows of no stops, skips and rollbacks."""
        return self.stop is None and not self.num_skipped and not (self.collapse and self.collapse["rollbacks"])


def find_trained(folder: Path, checkpoint: Path) -> Trained | None:
    """How the training of a stage's folder ended; None if it did not, or its checkpoint is not what it was."""
    try:
        content = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        stop = content["stop"]
        found = Trained(**content | {"stop": stop and Stop(**stop)})
        return found if checkpoint_hash(checkpoint) == found.checkpoint_hash else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def finish_training(folder: Path, checkpoint: Path, trainer: pl.Trainer, callbacks: Iterable[pl.Callback]) -> Trained:
    """Write down that training is done, and remove the states that nobody protects.

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
    )
    write_json(folder / _FILE, asdict(trained))
    rotate(folder / STATES, keep_last=0)
    with suppress(OSError):  # there are none, or protected ones
        (folder / STATES).rmdir()
    for callback in callbacks:
        if isinstance(callback, TrainingStates) and callback.signal is not None:
            raise RunInterruptedError(f"{callback.signal.name}: the trained policy is saved")
    return trained
