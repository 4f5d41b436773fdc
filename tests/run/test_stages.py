"""Fingerprints, inheritance and the stage cache."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from redi_lab.config.compose import inherited, load_config
from redi_lab.errors import UserError
from redi_lab.run import stages
from redi_lab.run.stages import StageCache, StageRecord, resolve_chain


def test_what_is_trained_reaches_the_earlier_stage_and_how_does_not() -> None:
    overrides = [
        "model=hf",
        "model.path=/m",
        "model/lora=default",
        "model.lora.rank=4",
        "data=jsonl",
        "data.path=/d",
        "data.batch_size=4",
        "data.micro_batch_tokens=100",
        "data.negatives=nearest",
        "loss.alpha=0.2",
        "optimizer.lr=1",
        "trainer.max_steps=3",
        "paths.output_dir=/o",
        "paths.cache_dir=/c",
        "logger=none",
        "seed=1",
        "debug=traceback",
        "eval.limit=3",
        "name=x",
        "init_from=demo_sft",
    ]
    assert inherited(overrides) == [
        "model=hf",
        "model.path=/m",
        "model/lora=default",
        "model.lora.rank=4",
        "data=jsonl",
        "data.path=/d",
        "paths.cache_dir=/c",
        "logger=none",
        "seed=1",
        "debug=traceback",
    ]


def fingerprints(*overrides: str) -> list[str]:
    return [stage.fingerprint for stage in resolve_chain(load_config("train", overrides), overrides)]


@pytest.fixture(scope="module")
def default() -> list[str]:
    """The fingerprints of the default command."""
    return fingerprints()


def test_a_chain_is_fingerprinted_before_anything_runs(default: list[str]) -> None:
    chain = resolve_chain(load_config("train", []), [])
    assert [stage.name for stage in chain] == ["demo_sft", "demo"]
    assert default == [stage.fingerprint for stage in chain]
    assert chain[0].data is chain[1].data


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        ("seed=7", (True, True)),
        ("data.source.num_problems=6999", (True, True)),
        ("model.config.num_hidden_layers=2", (True, True)),
        ("data.prompt_template='Q {problem}'", (True, True)),
        ("init_overrides=['optimizer.lr=1e-3']", (True, True)),  # another parent is another start
        ("data.token_weights=spans", (True, True)),
        ("loss.alpha=0.7", (False, True)),
        ("loss.prefix_weight=0", (False, True)),
        ("optimizer.lr=1e-4", (False, True)),
        ("scheduler=cosine", (False, True)),
        ("data.batch_size=8", (False, True)),
        ("eval.num_samples=2", (False, False)),
        ("data.max_new_tokens=95", (False, False)),
        ("loss.log_entropy=true", (False, False)),
        ("callbacks.checkpoints.every_n_steps=5", (False, False)),
        ("name=other", (False, False)),
    ],
)
def test_the_fingerprint_covers_what_matters(default: list[str], override: str, changes: tuple[bool, bool]) -> None:
    assert tuple(a != b for a, b in zip(default, fingerprints(override), strict=True)) == changes


def test_a_stage_is_the_same_on_any_number_of_devices() -> None:
    one = "trainer.accelerator=cpu"
    several = ("trainer.devices=3", "trainer.strategy=fsdp2", "trainer.fsdp_offload=true")
    assert fingerprints(one, *several) == fingerprints(one)


def test_the_fingerprint_covers_the_code(default: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "code_digest", lambda *_: "changed")
    assert fingerprints() != default


def test_the_fingerprint_covers_the_bytes_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    row = {"prompt": "1+1?", "chosen": "2", "rejected": "3"}
    path.write_text(json.dumps(row) + "\n")
    overrides = ("data=jsonl", f"data.path={path}", "data.source.num_heldout=0", "init_from=null")
    before = fingerprints(*overrides)
    path.touch()
    assert fingerprints(*overrides) == before
    path.write_text(json.dumps(row | {"rejected": "4"}) + "\n")
    assert fingerprints(*overrides) != before


def test_experiments_that_start_from_each_other_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load_config("train", ["init_from=demo"])
    config.init_from = "demo_symmetric"
    monkeypatch.setattr(stages, "load_earlier", lambda *_: config)
    with pytest.raises(UserError, match="in a circle"):
        resolve_chain(config, [])


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_record_is_found_while_its_checkpoint_is_what_it_was(tmp_path: Path, checkpoint: Path) -> None:
    cache = StageCache(tmp_path / "cache")
    assert cache.find("f") is None
    record = StageRecord("sft", tmp_path, checkpoint)
    cache.add("f", record)
    assert cache.find("f") == record
    assert StageCache(tmp_path / "cache").find("f") == record
    assert cache.find("g") is None
    (checkpoint / "model.safetensors").write_bytes(b"weighty")
    assert cache.find("f") is None


@pytest.mark.parametrize("damage", ["", "{", '{"name": 1}'])
def test_a_damaged_record_counts_as_none(tmp_path: Path, checkpoint: Path, damage: str) -> None:
    cache = StageCache(tmp_path / "cache")
    cache.add("f", StageRecord("sft", tmp_path, checkpoint))
    (tmp_path / "cache" / "stages" / "f.json").write_text(damage)
    assert cache.find("f") is None


def test_an_interrupted_attempt_is_gone_on_with_and_a_damaged_result_cleared(tmp_path: Path) -> None:
    cache = StageCache(tmp_path / "cache")
    with cache.place_for("f") as folder:
        folder.mkdir()
        (folder / "states").mkdir()
    with cache.place_for("f") as folder:
        assert (folder / "states").exists()
        (folder / "summary.json").write_text("{}")
    with cache.place_for("f") as folder:
        assert not folder.exists()


def test_a_stage_is_trained_by_one_process_at_a_time(tmp_path: Path) -> None:
    cache, other = StageCache(tmp_path / "cache"), FileLock(tmp_path / "cache" / "stages" / "f.lock")
    with cache.place_for("f"), pytest.raises(Timeout):
        other.acquire(timeout=0)
    with other:
        pass


@pytest.mark.slow
def test_two_runs_at_once_train_the_first_stage_once(tmp_path: Path, tiny: Callable[..., list[str]]) -> None:
    def start(name: str) -> subprocess.Popen[str]:
        line = [sys.executable, "-m", "redi_lab", *tiny("eval=none", f"paths.output_dir={tmp_path / name}")]
        return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    runs = {name: start(name) for name in ("a", "b")}
    for process in runs.values():
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    summaries = [json.loads((tmp_path / name / "summary.json").read_text()) for name in runs]
    assert sorted(s["stages"][0]["is_reused"] for s in summaries) == [False, True]
    assert len({s["stages"][0]["checkpoint"] for s in summaries}) == 1
    weights = {(Path(s["checkpoint"]) / "model.safetensors").read_bytes() for s in summaries}
    assert len(weights) == 1


def test_a_stage_is_found_after_the_outputs_folder_was_moved(tmp_path: Path, checkpoint: Path) -> None:
    outputs = tmp_path / "outputs"
    stage = outputs / "cache" / "stages" / "f"
    shutil.copytree(checkpoint, stage / "checkpoints" / "last")
    StageCache(outputs / "cache").add("f", StageRecord("sft", stage, stage / "checkpoints" / "last"))
    outputs.rename(tmp_path / "moved")
    found = StageCache(tmp_path / "moved" / "cache").find("f")
    assert found is not None
    assert found.checkpoint == tmp_path / "moved" / "cache" / "stages" / "f" / "checkpoints" / "last"


def test_a_stage_that_is_gone_is_said_to_be_trained_again(
    tmp_path: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = StageCache(tmp_path / "cache")
    cache.add("f", StageRecord("sft", tmp_path, checkpoint))
    shutil.rmtree(checkpoint)
    assert cache.find("f") is None
    assert str(checkpoint) in capsys.readouterr().out
