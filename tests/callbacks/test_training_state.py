"""A state folder: everything comes back, nothing torn is believed, a full disk leaves the one before."""

from __future__ import annotations

import json
import pickle
import random
import resource
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.optim import AdamW
from transformers import get_scheduler

from redi_lab.callbacks.resume import newest_state
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
from redi_lab.errors import UserError
from tests.modules.tiny_runs import HARMLESS_WARNINGS, Run, fit, flat, make_backbone, make_data, make_module

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]


def schedule(optimizer: torch.optim.Optimizer, num_steps: int) -> Any:
    return get_scheduler("linear", optimizer, num_warmup_steps=1, num_training_steps=num_steps)


def run(*callbacks: pl.Callback, max_steps: int = 5) -> Run:
    module = make_module("redi", make_backbone(), optimizer=partial(AdamW, lr=1e-2), scheduler=schedule)
    return fit(module, make_data("redi"), max_steps=max_steps, callbacks=callbacks)


@final
class Saver(pl.Callback):
    """Saves before batch `at` and, if told, rolls back to it before batch `back`."""

    def __init__(self, folder: Path, at: int, back: int | None = None) -> None:
        self.folder, self.at, self.back, self.counted = folder, at, back, 0

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.global_step == self.at:
            save_state(trainer, pl_module, self.folder)
        elif trainer.global_step == self.back:
            load_state(trainer, pl_module, self.folder)
            self.after = flat(list(pl_module.parameters()))
            self.rate = trainer.optimizers[0].param_groups[0]["lr"]
        self.counted += 1

    def state_dict(self) -> dict[str, Any]:
        return {"counted": self.counted, "tensor": torch.ones(2)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.counted = state_dict["counted"]


def test_rollback_puts_policy_optimizer_and_schedule_back(tmp_path: Path) -> None:
    saver = Saver(tmp_path / "s", at=2, back=4)
    result = run(saver)
    assert torch.equal(saver.after, result.tap.parameters[1])
    assert result.train[2]["train/lr"] == result.train[4]["train/lr"] == pytest.approx(saver.rate)
    steps = result.trainer.optimizers[0].state_dict()["state"]
    assert {int(moments["step"]) for moments in steps.values()} == {3}  # two, rolled back to, and one
    assert result.trainer.global_step == 5  # the axis goes on


def test_position_callbacks_and_random_numbers_come_back(tmp_path: Path) -> None:
    saver = Saver(tmp_path / "s", at=4)
    result = run(saver)
    assert read_position(tmp_path / "s") == Position(epoch=1, batch=1, total_batches=4, global_step=4)

    restore_random_state(result.trainer, tmp_path / "s")
    first = (random.random(), np.random.rand(), torch.rand(()).item())
    restore_random_state(result.trainer, tmp_path / "s")
    assert first == (random.random(), np.random.rand(), torch.rand(()).item())

    assert saver.counted == 5
    restore_callbacks(result.trainer, tmp_path / "s")
    assert saver.counted == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s"]


FILES = ["callbacks.pt", "manifest.json", "policy.pt", "rng-0.pt"]


def test_a_state_is_loaded_without_executing_anything(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == FILES
    for path in saved.glob("*.pt"):
        assert torch.load(path, weights_only=True)


def test_a_callback_whose_state_could_not_be_read_back_fails_as_it_is_saved(tmp_path: Path) -> None:
    @final
    class Opaque(pl.Callback):
        def state_dict(self) -> dict[str, Any]:
            return {"where": tmp_path}

    with pytest.raises(pickle.UnpicklingError):
        run(Saver(tmp_path / "s", at=1), Opaque(), max_steps=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "gone", "one bit"])
def test_a_damaged_state_is_passed_over_for_the_one_before(
    name: str, damage: str, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before, newest = (shutil.copytree(saved, tmp_path / f"step-{number}") for number in (1, 2))
    assert newest_state(tmp_path) == newest
    path = newest / name
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        middle = len(content) // 2
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes(content[:middle] if damage == "truncated" else flipped)
    with pytest.raises(DamagedStateError, match=str(newest)):
        verify_state(newest)
    assert newest_state(tmp_path) == before
    assert str(newest) in caplog.text


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("states") / "s"
    run(Saver(folder, at=1), max_steps=2)
    return folder


def test_another_models_state_changes_nothing(saved: Path, tmp_path: Path) -> None:
    @final
    class Loader(pl.Callback):
        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            pl_module.register_parameter("further", torch.nn.Parameter(torch.zeros(1)))
            before = flat(list(pl_module.parameters()))
            with pytest.raises(DamagedStateError, match="another model"):
                load_state(trainer, pl_module, saved)
            assert torch.equal(before, flat(list(pl_module.parameters())))
            del pl_module.further

    run(Loader(), max_steps=1)


@contextmanager
def largest_file(num_bytes: int) -> Iterator[None]:
    """As a full disk does, writing fails in the middle of a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_state_before(tmp_path: Path) -> None:
    run(Saver(tmp_path / "step-1", at=1), max_steps=2)
    with largest_file(20_000), pytest.raises(UserError, match=r"step 2 needs 1\.\d\d MB.*run the same command again"):
        run(Saver(tmp_path / "step-2", at=2), max_steps=3)
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    verify_state(tmp_path / "step-1")


def test_too_little_room_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = type("Usage", (), {"free": 1_000_000})
    monkeypatch.setattr("redi_lab.files.shutil.disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="1 MB are free"):
        run(Saver(tmp_path / "s", at=1), max_steps=2)
    assert not list(tmp_path.iterdir())


def test_a_changed_format_is_told(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text(json.dumps({"format": 99, "files": {}}))
    with pytest.raises(DamagedStateError, match="not a state of format 2"):
        verify_state(tmp_path)
