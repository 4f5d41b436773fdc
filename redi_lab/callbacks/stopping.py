"""How a callback ends training early and records why."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import final

import pytorch_lightning as pl


@final
@dataclass(frozen=True, slots=True)
class Stop:
    """Why training ended before its last step.

    Attributes:
        by: what ended it: "collapse", "pruner" or "numerics".
        step: the optimizer step after which it did.
        reason: in words.
    """

    by: str
    step: int
    reason: str


class StoppingCallback(pl.Callback):
    """Base of the callbacks that may end training; they decide alike on every rank."""

    stop: Stop | None = None

    def end_training(self, trainer: pl.Trainer, stop: Stop) -> None:
        """End training after this step and remember why."""
        self.stop = stop
        trainer.should_stop = True


def first_stop(callbacks: Iterable[pl.Callback]) -> Stop | None:
    """The earliest stop among the callbacks, None if there was none."""
    stops = [c.stop for c in callbacks if isinstance(c, StoppingCallback) and c.stop is not None]
    return min(stops, key=lambda stop: stop.step, default=None)
