"""Fingerprints, which follow what is computed and not how it is explained; inheritance and the stage cache."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock, Timeout
from omegaconf import OmegaConf

from redi_lab.config.compose import inherited, load_config
from redi_lab.errors import UserError
from redi_lab.run import stages
from redi_lab.run.stages import Stage, StageCache, StageRecord, code_digest, resolve_chain


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
def chain() -> list[Stage]:
    """The stages of the default command."""
    return resolve_chain(load_config("train", []), [])


@pytest.fixture(scope="module")
def default(chain: list[Stage]) -> list[str]:
    """Their fingerprints."""
    return [stage.fingerprint for stage in chain]


def test_a_chain_is_fingerprinted_before_anything_runs(chain: list[Stage], default: list[str]) -> None:
    assert [stage.name for stage in chain] == ["demo_sft", "demo"]
    assert default == fingerprints()
    assert chain[0].data is chain[1].data


@pytest.mark.parametrize(
    ("override", "changes"),
    [
        ("data.source.num_problems=6999", (True, True)),
        ("init_overrides=['optimizer.lr=1e-3']", (True, True)),  # another parent is another start
        ("loss.alpha=0.7", (False, True)),
        ("eval.num_samples=2 data.max_new_tokens=95 callbacks.checkpoints.every_n_steps=5 name=other", (False, False)),
    ],
)
def test_the_fingerprint_covers_what_matters(default: list[str], override: str, changes: tuple[bool, bool]) -> None:
    assert tuple(a != b for a, b in zip(default, fingerprints(*override.split()), strict=True)) == changes


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seed", 7),
        ("model.config.num_hidden_layers", 2),
        ("data.prompt_template", "Q {problem}"),
        ("data.token_weights", "spans"),
        ("data.batch_size", 8),
        ("loss.prefix_weight", 0.0),
        ("loss.alpha_schedule", "linear"),
        ("optimizer.lr", 1e-4),
        ("scheduler.name", "cosine"),
    ],
)
def test_a_stage_with_other_settings_is_another_one(chain: list[Stage], key: str, value: object) -> None:
    stage = chain[-1]
    config = copy.deepcopy(stage.config)
    OmegaConf.update(config, key, value)
    assert stages._identity(config, stage.data, stage.identity["init"]) != stage.identity


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


LOSS = '''"""A loss."""

RATE = 0.5
"""Of the negative term."""


def loss(x: float) -> float:
    """The weighted loss."""
    return x * RATE
'''


def digest(folder: Path, source: str, name: str = "loss.py") -> str:
    """The digest of a package of one module."""
    (folder / "losses").mkdir(parents=True)
    (folder / "losses" / name).write_text(source)
    return code_digest("losses", package=folder)


@pytest.mark.parametrize(
    ("old", "new", "is_same"),
    [
        ("RATE = 0.5", "RATE = 0.5  # a comment", True),
        ('"""A loss."""\n\n', "", True),
        ("The weighted", "The very weighted", True),
        ('"""Of the negative term."""\n', "", True),
        ("x * RATE", "(x\n * RATE)", True),
        ("RATE = 0.5", "RATE = 0.25", False),
        ("x * RATE", "x / RATE", False),
        ("return x", 'return "a string" or x', False),
    ],
)
def test_prose_does_not_count_and_numbers_do(tmp_path: Path, old: str, new: str, is_same: bool) -> None:
    assert old in LOSS
    changed = digest(tmp_path / "b", LOSS.replace(old, new))
    assert (changed == digest(tmp_path / "a", LOSS)) == is_same


def test_the_names_of_modules_count(tmp_path: Path) -> None:
    assert digest(tmp_path / "a", LOSS) != digest(tmp_path / "b", LOSS, "other.py")


def test_the_code_of_the_lab_is_found() -> None:
    assert code_digest("losses") == code_digest("losses") != code_digest("losses", "data")
