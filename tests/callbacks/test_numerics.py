"""Unsound numbers never reach the weights, and their batches are named."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, final

import pytest
import pytorch_lightning as pl
import torch
from torch.optim import SGD

from redi_lab.callbacks.numerics import BAD_BATCHES, NumericsGuard, num_skipped
from redi_lab.callbacks.stopping import first_stop
from redi_lab.callbacks.update_norm import UpdateNorm
from tests.modules.tiny_runs import HARMLESS_WARNINGS, Run, fit, make_backbone, make_data, make_module

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]


@final
class Fault(pl.Callback):
    """Spoils the gradient, or the log-probs of the second sequence, of the batches with these indices."""

    def __init__(self, *batches: int, gradient: float | None = None) -> None:
        self.batches = batches
        self.gradient = gradient

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        accumulate = pl_module._accumulate_gradients

        def spoiled(batch: Any) -> Any:
            sums = accumulate(batch)
            if trainer.fit_loop.epoch_loop._batches_that_stepped in self.batches:
                if self.gradient is None:
                    sums.logps[1] = float("nan")
                else:
                    next(p for p in pl_module.parameters() if p.grad is not None).grad.fill_(self.gradient)
            return sums

        pl_module._accumulate_gradients = spoiled


def make_guard(folder: Path, **options: Any) -> NumericsGuard:
    settings: dict[str, Any] = {"action": "stop", "max_skips": 10, "explosion": 1e4}
    return NumericsGuard(folder, **settings | options)


def run(guard: NumericsGuard, fault: Fault, **options: Any) -> Run:
    module = make_module("redi", make_backbone(), optimizer=partial(SGD, lr=0.05))
    return fit(
        module,
        make_data("redi"),
        callbacks=[guard, UpdateNorm(), fault],
        **{"max_steps": -1, "max_epochs": 5} | options,
    )


def rows(folder: Path) -> list[dict[str, Any]]:
    path = folder / BAD_BATCHES
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (Fault(2), "the log-probs of 1 of 10 sequences are not finite"),
        (Fault(2, gradient=float("nan")), "the gradient is not finite (norm nan)"),
    ],
)
def test_training_stops_before_the_step(fault: Fault, reason: str, tmp_path: Path) -> None:
    guard = make_guard(tmp_path)
    clean = run(make_guard(tmp_path / "clean"), Fault(), max_epochs=-1, max_steps=2)
    result = run(guard, fault)
    assert result.trainer.global_step == 2
    assert torch.equal(result.tap.parameters[-1], clean.tap.parameters[1])
    stop = first_stop([guard])
    assert stop is not None
    assert (stop.by, stop.step) == ("numerics", 2)
    assert stop.reason.startswith(reason)
    (row,) = rows(tmp_path)
    assert (row["step"], row["action"], row["reason"]) == (2, "stop", reason)
    assert row["unsound_ids"] == (row["ids"][1:2] if fault.gradient is None else [])
    assert len(row["ids"]) == 2 * 5  # the last batch of the epoch, with its 5 pairs


def test_bad_batches_are_skipped_and_counted(tmp_path: Path) -> None:
    guard = make_guard(tmp_path, action="skip")
    result = run(guard, Fault(1, 4), max_epochs=2)
    assert result.trainer.global_step == 4
    before, during = result.tap.parameters[0], result.tap.parameters[1]
    assert torch.equal(before, during)
    assert not torch.equal(during, result.tap.parameters[2])
    assert all(torch.isfinite(state).all() for state in result.tap.parameters)
    assert num_skipped([guard]) == 2
    assert first_stop([guard]) is None
    assert [row["action"] for row in rows(tmp_path)] == ["skip", "skip"]
    assert [call["train/update_norm"] > 0 for call in result.train] == [True, False, True, True, False, True]


def test_too_many_skips_stop(tmp_path: Path) -> None:
    guard = make_guard(tmp_path, action="skip", max_skips=2)
    result = run(guard, Fault(1, 2, 3))
    assert result.trainer.global_step == 1
    stop = first_stop([guard])
    assert stop is not None
    assert "(2 batches were skipped before)" in stop.reason
    assert [row["action"] for row in rows(tmp_path)] == ["skip", "skip", "stop"]


def test_an_exploding_norm_is_told_from_a_large_one(tmp_path: Path) -> None:
    large, exploded = make_guard(tmp_path / "large", explosion=1e9), make_guard(tmp_path, explosion=100.0)
    fault = Fault(12, gradient=1e4)
    assert run(large, fault, max_epochs=-1, max_steps=13).trainer.global_step == 13
    assert run(exploded, fault).trainer.global_step == 12
    assert "the gradient's norm is" in rows(tmp_path)[0]["reason"]
    early = make_guard(tmp_path / "early", explosion=100.0)
    assert run(early, Fault(3, gradient=1e4), max_epochs=-1, max_steps=4).trainer.global_step == 4  # too few to compare


def test_an_empty_batch_is_not_a_step(tmp_path: Path) -> None:
    guard = make_guard(tmp_path)
    result = run(guard, Fault(), max_epochs=1)
    (batch, *_) = make_data("redi").train_dataloader()
    batch.num_examples = 0
    guard._trainer = result.trainer
    assert not guard.may_step(batch, torch.zeros(12), torch.tensor(0.0))
    assert rows(tmp_path)[-1]["reason"] == "the batch holds nothing to learn from"


def test_the_count_survives_a_resume(tmp_path: Path) -> None:
    guard, resumed = make_guard(tmp_path, action="skip"), make_guard(tmp_path, action="skip")
    run(guard, Fault(1), max_epochs=1)
    resumed.load_state_dict(guard.state_dict())
    assert resumed.state_dict() == guard.state_dict() != make_guard(tmp_path).state_dict()
