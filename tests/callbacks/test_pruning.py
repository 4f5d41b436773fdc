"""What a sweep hears of a run, at which step, and that its answer ends training."""

from __future__ import annotations

import json
from functools import partial
from typing import final

import pytest
import pytorch_lightning as pl
from torch.optim import SGD

from redi_lab.callbacks.accuracy import InTrainingAccuracy
from redi_lab.callbacks.pruning import PruningCallback
from redi_lab.callbacks.stopping import Stop, first_stop
from tests.modules.tiny_runs import HARMLESS_WARNINGS, Run, fit, make_backbone, make_data, make_module

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]


@final
class Listener:
    """A sweep that lets everything go on."""

    def __init__(self) -> None:
        self.heard: list[tuple[float, int]] = []

    def __call__(self, value: float, step: int) -> bool:
        self.heard.append((round(value, 4), step))
        return False


def run(callback: PruningCallback, *before: pl.Callback, max_steps: int = 6) -> Run:
    """Train 6 of 7 steps, with validation each two steps."""
    module = make_module("redi", make_backbone(), optimizer=partial(SGD, lr=0.05))
    data = make_data("redi", batch_size=2, num_validation=3)
    return fit(module, data, max_steps=max_steps, callbacks=[*before, callback], val_check_interval=2)


def measuring(every: int = 2) -> InTrainingAccuracy:
    values = iter(range(100))
    return InTrainingAccuracy(lambda policy: {"pass_at_1": next(values) / 100}, every)


def test_each_measurement_is_reported_once_under_its_step() -> None:
    listener = Listener()
    callback = PruningCallback("val/pass_at_1", listener)
    run(callback, measuring(every=4))
    assert listener.heard == [(0.0, 0), (0.01, 4), (0.02, 6)]
    assert callback.measurements == pytest.approx({0: 0.0, 4: 0.01, 6: 0.02})
    assert (callback.last_step, callback.planned_steps) == (6, 6)


def test_a_validation_loss_is_reported_after_each_validation() -> None:
    listener = Listener()
    callback = PruningCallback("val/loss", listener)
    result = run(callback)
    assert [step for _, step in listener.heard] == [2, 4, 6]
    logged = [call["val/loss"] for _, call in result.log.calls if "val/loss" in call]
    assert list(callback.measurements.values()) == pytest.approx(logged)


def test_the_sweeps_answer_ends_training() -> None:
    callback = PruningCallback("val/pass_at_1", lambda value, step: step >= 2)
    run(callback, measuring())
    assert callback.stop == Stop("pruner", 2, "val/pass_at_1 of 0.01 is behind other trials")
    assert first_stop([callback]) is callback.stop
    assert (callback.last_step, callback.planned_steps) == (2, 6)


def test_after_the_last_step_there_is_nothing_to_end() -> None:
    callback = PruningCallback("val/pass_at_1", lambda value, step: step == 6)
    run(callback, measuring(every=4))
    assert callback.stop is None


def test_a_resumed_run_tells_again_what_was_told_before() -> None:
    first = PruningCallback("val/pass_at_1", Listener())
    run(first, measuring(every=4), max_steps=4)
    listener = Listener()
    second = PruningCallback("val/pass_at_1", listener)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    run(second, measuring(every=4))
    assert [step for _, step in listener.heard] == [0, 4, 6]
    assert second.measurements.keys() == {0, 4, 6}
