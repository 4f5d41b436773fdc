"""What is said of a training's steps, memory and time, on a clock that the test drives."""

from __future__ import annotations

from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch.optim import SGD, AdamW

from redi_lab.callbacks import forecast
from redi_lab.callbacks.forecast import Forecast, fixed_bytes, free_bytes, peak_bytes
from redi_lab.planning.rates import Planned
from tests.modules.tiny_runs import HARMLESS_WARNINGS, fit, make_backbone, make_data, make_module

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]


class Clock:
    """Looked at after the first step and three steps later; each of these takes two seconds."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 6.0
        return self.now


def test_steps_and_memory_come_first_and_time_after_four_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "time", Clock())
    monkeypatch.setattr(forecast, "free_bytes", lambda device: 10**12)
    said: list[tuple[int, str]] = []
    module = make_module("redi", make_backbone(), optimizer=partial(AdamW, lr=1e-3))
    callback = Forecast(lambda line: said.append((module.global_step, line)))
    fit(module, make_data("redi", batch_size=2), max_steps=7, callbacks=[callback])
    assert [step for step, _ in said] == [0, 4]
    trained = sum(p.numel() for p in module.parameters())
    assert said[0][1].startswith(f"7 steps in 32-true; {trained:,} of {trained:,} parameters")
    assert said[1][1].startswith("About 2 s a step: 0:00:06 for the 3 steps left")


def test_a_training_that_does_not_fit_is_warned_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecast, "free_bytes", lambda device: 100)
    said: list[str] = []
    module = make_module("sft", make_backbone(), optimizer=partial(AdamW, lr=1e-3))
    fit(module, make_data("sft"), max_steps=1, callbacks=[Forecast(said.append)])
    assert "model/lora=default" in said[1]


def test_a_run_is_held_to_its_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs 50 bytes more than there are, beyond libraries; half of its 4 steps are made in 6 of its 20 seconds."""
    module = make_module("sft", make_backbone(), optimizer=partial(AdamW, lr=1e-3))
    held = sum(p.nbytes for p in module.parameters())
    said, rooms, rates = list[str](), list[int](), list[float]()

    def remedy(room: int) -> str:
        rooms.append(room)
        return "data.micro_batch_tokens=7"

    plan = Planned(1000 + held + 150, 1000, 240.0, 20.0, remedy, rates.append)
    monkeypatch.setattr(forecast, "time", Clock())
    monkeypatch.setattr(forecast, "free_bytes", lambda device: 100)
    monkeypatch.setattr(forecast, "peak_bytes", lambda device: 777)
    callback = Forecast(said.append, lambda device: plan)
    fit(module, make_data("sft"), max_steps=4, callbacks=[callback, StopAfter(2)])
    assert rooms == [1000 + held + 100]
    assert "this would fit: data.micro_batch_tokens=7" in said[1]
    expected = {"plan/peak_bytes": 1000.0 + held + 150, "plan/seconds": 10.0, "plan/measured_peak_bytes": 777.0}
    assert callback.outcome == expected | {"plan/measured_seconds": 12.0}
    assert rates == [240 / 2 / 12]


class StopAfter(pl.Callback):
    """Ends training early."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
        trainer.should_stop = trainer.global_step >= self.steps


def test_memory_by_hand() -> None:
    """Weight, gradient, two moments and a copy: five times 4 bytes; a frozen weight counts once."""
    module = torch.nn.Linear(3, 2, bias=True)
    module.bias.requires_grad_(False)
    optimizer = AdamW([module.weight])
    assert fixed_bytes(module, optimizer) == 6 * 4 * 5 + 2 * 4
    assert fixed_bytes(module, SGD([module.weight], lr=1.0)) == 6 * 4 * 4 + 2 * 4


def test_this_machine_has_memory() -> None:
    cpu = torch.device("cpu")
    assert 10**7 < peak_bytes(cpu) < 10**12
    assert 10**6 < free_bytes(cpu) < 10**13
