from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from redi_lab.errors import UserError
from redi_lab.evaluation.results import (
    EvaluationResult,
    ResultRow,
    checkpoint_hash,
    content_digest,
    evaluation_key,
    load_result,
    save_result,
)

PROTOCOL = {"sampling": {"temperature": 0.6, "seed": 1}, "engine": "x"}


@pytest.fixture
def result() -> EvaluationResult:
    rows = (
        ResultRow("a", 0, "a\u2028\ud800\n", "stop", "right", "same answer", "1", 3),
        ResultRow("a", 1, "", "length", "unknown", "no final answer", None, 9),
    )
    key = evaluation_key("weights", PROTOCOL, "digest")
    return EvaluationResult(key, PROTOCOL, "set", "digest", "weights", {"pass_at_1": 0.5}, rows)


def test_key_follows_each_part_and_no_order() -> None:
    key = evaluation_key("w", {"a": 1, "b": 2}, "d")
    assert key == evaluation_key("w", {"b": 2, "a": 1}, "d")
    assert len(key) == 32
    others = [evaluation_key("v", {"a": 1, "b": 2}, "d"), evaluation_key("w", {"a": 1, "b": 3}, "d")]
    assert key not in [*others, evaluation_key("w", {"a": 1, "b": 2}, "e")]
    with pytest.raises(TypeError, match="not JSON serializable"):
        evaluation_key("w", {"path": Path("x")}, "d")
    with pytest.raises(ValueError, match="not JSON compliant"):
        content_digest(float("nan"))


def test_a_saved_result_comes_back_whole(tmp_path: Path, result: EvaluationResult) -> None:
    folder = tmp_path / "new" / "results"
    path = save_result(folder, result)
    assert load_result(folder, result.key) == result
    assert sorted(file.name for file in folder.iterdir()) == [f"{result.key}.json", f"{result.key}.jsonl"]
    assert json.loads(path.read_text())["metrics"] == {"pass_at_1": 0.5}


def test_an_absent_result_is_none_without_a_warning(tmp_path: Path) -> None:
    assert load_result(tmp_path, "0" * 32) is None


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _change_seed(path: Path) -> None:
    path.write_text(path.read_text().replace('"seed": 1', '"seed": 2'))


@pytest.mark.parametrize(
    ("suffix", "damage", "reason"),
    [
        (".json", _cut, "JSONDecodeError"),
        (".json", _change_seed, "does not belong to its key"),
        (".json", lambda path: path.write_text("[]"), "TypeError"),
        (".json", lambda path: path.write_text("{}"), "KeyError"),
        (".jsonl", _cut, "rows have changed"),
        (".jsonl", lambda path: path.unlink(), "FileNotFoundError"),
    ],
)
def test_a_damaged_result_warns_and_counts_as_absent(
    tmp_path: Path, result: EvaluationResult, suffix: str, damage: Callable[[Path], Any], reason: str
) -> None:
    damage(save_result(tmp_path, result).with_suffix(suffix))
    with pytest.warns(UserWarning, match=rf"{result.key}\.json is not usable and will be computed again: .*{reason}"):
        assert load_result(tmp_path, result.key) is None


def test_a_result_under_anothers_name_is_refused(tmp_path: Path, result: EvaluationResult) -> None:
    path = save_result(tmp_path, result)
    other = evaluation_key("other", PROTOCOL, "digest")
    path.rename(tmp_path / f"{other}.json")
    with pytest.warns(UserWarning, match="does not belong to its key"):
        assert load_result(tmp_path, other) is None


def test_a_failed_write_leaves_the_old_result(tmp_path: Path, result: EvaluationResult) -> None:
    save_result(tmp_path, result)
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_result(tmp_path, replace(result, metrics={"pass_at_1": float("nan")}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_result(tmp_path, result.key) == result


def test_checkpoint_hash_follows_what_matters(checkpoint: Path, tmp_path: Path) -> None:
    original = checkpoint_hash(checkpoint)
    copy = shutil.copytree(checkpoint, tmp_path / "copy")
    (copy / "trainer.log").write_text("step 1")
    assert checkpoint_hash(copy) == original
    for name in (
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ):
        changed = shutil.copytree(checkpoint, tmp_path / name)
        with (changed / name).open("ab") as file:
            file.write(b" ")
        assert checkpoint_hash(changed) != original, name
    (copy / "model.safetensors").rename(copy / "model-00001-of-00001.safetensors")
    assert checkpoint_hash(copy) != original


def test_checkpoint_hash_refuses_other_folders(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no config\.json"):
        checkpoint_hash(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"has no \*\.safetensors"):
        checkpoint_hash(tmp_path)
