"""Exported folders: when they appear, what is in them, which one is the best."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, final

import pytest
import pytorch_lightning as pl
import torch
from torch.optim import SGD
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from redi_lab.callbacks.checkpoints import ExportCheckpoints
from redi_lab.errors import UserError
from tests.modules.tiny_runs import HARMLESS_WARNINGS, Run, fit, flat, make_backbone, make_data, make_module, tokenizer

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]
END_OF_TURN = 0


def make_export(folder: Path, **options: Any) -> ExportCheckpoints:
    return ExportCheckpoints(folder, END_OF_TURN, **{"every_n_steps": None, "monitor": None, "mode": "min"} | options)


def run(folder: Path, *extra: pl.Callback, max_steps: int = 5, **options: Any) -> Run:
    """Train with validation each two steps."""
    export = make_export(folder, **options)
    module = make_module("redi", make_backbone(), optimizer=partial(SGD, lr=0.05))
    data = make_data("redi", batch_size=2, num_validation=3)  # 14 pairs to train on: 7 steps an epoch
    return fit(module, data, max_steps=max_steps, callbacks=[*extra, export], val_check_interval=2)


def folders(folder: Path) -> list[str]:
    """Everything that was left there, hidden things too."""
    return sorted(path.name for path in folder.iterdir())


def weights(folder: Path) -> torch.Tensor:
    return flat(list(AutoModelForCausalLM.from_pretrained(folder).parameters()))


def test_folders_appear_at_the_asked_steps_and_hold_their_state(tmp_path: Path) -> None:
    result = run(tmp_path, every_n_steps=2)
    assert folders(tmp_path) == ["last", "step-2", "step-4"]
    for name, step in (("step-2", 2), ("step-4", 4), ("last", 5)):
        assert torch.equal(weights(tmp_path / name), result.tap.parameters[step - 1]), name
    assert not torch.equal(result.tap.parameters[1], result.tap.parameters[3])


def test_a_folder_loads_in_transformers_and_replaces_what_a_broken_export_left(tmp_path: Path) -> None:
    for name in (".last.partial", "last"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "rubbish").write_text("half a file")
    run(tmp_path, max_steps=1)
    assert folders(tmp_path) == ["last"]
    assert not (tmp_path / "last" / "rubbish").exists()
    text = "76 , first add 72 ?"
    loaded = AutoTokenizer.from_pretrained(tmp_path / "last")
    assert loaded(text)["input_ids"] == tokenizer()(text)["input_ids"]
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "last")
    assert model.config.vocab_size == len(loaded)
    assert GenerationConfig.from_pretrained(tmp_path / "last").eos_token_id == END_OF_TURN


@final
class _FakeMetric(pl.Callback):
    """Logs a chosen value of val/fake at each validation."""

    def __init__(self, values: list[float]) -> None:
        self.values = values

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        pl_module.log("val/fake", self.values[trainer.global_step // 2 - 1])


@pytest.mark.parametrize(
    ("mode", "values", "step"),
    [
        ("max", [3.0, 1.0, 3.0], 2),  # a tie keeps the earlier
        ("min", [float("nan"), 2.0, 3.0], 4),  # a NaN is never the best
    ],
)
def test_best_is_the_state_at_the_best_validation(
    mode: Literal["min", "max"], values: list[float], step: int, tmp_path: Path
) -> None:
    result = run(tmp_path, _FakeMetric(values), max_steps=7, monitor="val/fake", mode=mode)
    assert folders(tmp_path) == ["best", "last"]
    assert torch.equal(weights(tmp_path / "best"), result.tap.parameters[step - 1])
    note = json.loads((tmp_path / "best" / "best.json").read_text())
    assert note == {"step": step, "val/fake": values[step // 2 - 1]}


def test_best_follows_the_real_validation_loss(tmp_path: Path) -> None:
    result = run(tmp_path, max_steps=4, monitor="val/loss")
    losses = [call["val/loss"] for call in result.log.stage("val")]
    note = json.loads((tmp_path / "best" / "best.json").read_text())
    assert note["val/loss"] == pytest.approx(min(losses), rel=1e-6)
    assert note["step"] == 2 * (1 + losses.index(min(losses)))


def test_best_by_a_training_metric_is_sought_at_exported_steps(tmp_path: Path) -> None:
    export = make_export(tmp_path, every_n_steps=2, monitor="train/loss")
    result = fit(make_module("redi", make_backbone()), make_data("redi", batch_size=2), max_steps=6, callbacks=[export])
    losses = {step: result.train[step - 1]["train/loss"] for step in (2, 4, 6)}
    step = min(losses, key=lambda candidate: losses[candidate])
    assert torch.equal(weights(tmp_path / "best"), result.tap.parameters[step - 1])
    note = json.loads((tmp_path / "best" / "best.json").read_text())
    assert note == {"step": step, "train/loss": pytest.approx(losses[step], rel=1e-6)}


@final
class _FakeAtTheEnd(pl.Callback):
    """Says that the policy is best when training is over, as a callback does that measures it then."""

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.callback_metrics["val/fake"] = torch.tensor(9.0)


def test_the_last_weights_may_be_the_best(tmp_path: Path) -> None:
    values = _FakeMetric([3.0, 1.0, 2.0])
    run(tmp_path, values, _FakeAtTheEnd(), max_steps=7, monitor="val/fake", mode="max")
    assert torch.equal(weights(tmp_path / "best"), weights(tmp_path / "last"))
    assert json.loads((tmp_path / "best" / "best.json").read_text()) == {"step": 7, "val/fake": 9.0}


def test_a_metric_that_is_not_there_yet_is_passed_over(tmp_path: Path) -> None:
    """Three steps of an epoch of seven, which would end with the first validation."""
    export = make_export(tmp_path, every_n_steps=1, monitor="val/loss")
    module = make_module("redi", make_backbone(), optimizer=partial(SGD, lr=0.05))
    fit(module, make_data("redi", batch_size=2, num_validation=3), max_steps=3, callbacks=[export])
    assert folders(tmp_path) == ["last", "step-1", "step-2", "step-3"]
    assert export.best is None


def test_a_full_disk_leaves_the_folder_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(tmp_path, max_steps=1)
    before = weights(tmp_path / "last")
    monkeypatch.setattr("redi_lab.files.shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(UserError, match=r"checkpoint .*last"):
        run(tmp_path, max_steps=2)
    assert folders(tmp_path) == ["last"]
    assert torch.equal(weights(tmp_path / "last"), before)


def test_the_best_value_survives_a_resume(tmp_path: Path) -> None:
    export, resumed = make_export(tmp_path), make_export(tmp_path)
    export.best = 0.5
    resumed.load_state_dict(export.state_dict())
    assert resumed.best == 0.5
