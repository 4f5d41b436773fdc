"""The study of hygiene: each flaw is planted where it should be and found by its rule, and the table adds up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from experiments.hygiene import run
from experiments.hygiene.run import CLEAN, DROPPED, FLAWS, PLANTED, QUICK, Scope, table, train_arm, write_traces
from redi_lab.cli import main

TASK = ["data.source.num_problems=300", "seed=5"]


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_planted_in_a_fifth_of_the_pairs_and_its_rule_finds_it(flaw: str, tmp_path: Path) -> None:
    write_traces(tmp_path / "clean.jsonl", "none", TASK)
    number = write_traces(tmp_path / "flawed.jsonl", flaw, TASK)
    before, after = rows_of(tmp_path / "clean.jsonl"), rows_of(tmp_path / "flawed.jsonl")
    changed = [new for old, new in zip(before, after, strict=True) if old != new]
    assert len(changed) == number
    assert 0.1 < number / len(before) < 0.4  # of 86, the same ones whatever the flaw
    assert all(row["generations"][1]["error"] == PLANTED for row in changed)
    left = {}
    for state in (PLANTED, DROPPED):
        places = [f"data.path={tmp_path / 'flawed.jsonl'}", f"paths.output_dir={tmp_path / state}"]
        main(["curate", *run.rules_of(state, flaw), *places])
        left[state] = pq.read_table(tmp_path / state / "pairs.parquet")["rejected_error"].to_pylist()
    assert len(left[PLANTED]) == len(before)
    assert left[PLANTED].count(PLANTED) == number
    assert left[DROPPED].count(PLANTED) <= (0.4 if flaw == "near_positive" else 0) * number
    assert left[DROPPED].count(None) >= 0.8 * left[PLANTED].count(None)


@pytest.mark.slow  # four tiny trainings
def test_an_arm_is_trained_scored_and_not_trained_again(
    tiny: Callable[..., list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller = [one for one in tiny() if one.startswith(("data.source", "model.", "eval."))]
    scope = Scope(flaws=("loop",), seeds=(5,), steps=2, smaller=(*smaller, "eval.limit=4"))
    assert 0 <= run.train_start(tmp_path, scope, 5)["pass_at_1"] <= 1
    rows = [train_arm(tmp_path, scope, 5, arm) for arm in scope.arms]
    assert [row["planted"] > 0 for row in rows] == [False, True, False]
    assert rows[0]["pairs"] == rows[1]["pairs"] == rows[2]["pairs"] + rows[1]["planted"]
    assert all(0 <= row["fresh"]["pass_at_1"] <= 1 for row in rows)
    weights = [file.read_bytes() for file in tmp_path.glob("runs/*/checkpoints/last/model.safetensors")]
    assert len(weights) == len(set(weights)) == 3
    monkeypatch.setattr(run, "train_once", lambda *_: None)
    assert train_arm(tmp_path, scope, 5, scope.arms[1]) == rows[1]


def row(state: str, flaw: str, seed: int, score: float, pairs: int = 100, planted: int = 0) -> dict[str, Any]:
    fresh = {"pass_at_1": score}
    return {"state": state, "flaw": flaw, "seed": seed, "fresh": fresh, "pairs": pairs, "planted": planted}


def test_the_table_pairs_seeds() -> None:
    """Planting costs 0.1 and 0.2; dropping gives 0.1 back, finds 15 of 20, and takes 4 of 80 others along."""
    rows = [row(CLEAN, "none", seed, 0.9) for seed in (1, 2, 3)]
    rows += [row(PLANTED, "loop", seed, score, planted=20) for seed, score in ((1, 0.8), (2, 0.7))]
    rows += [row(DROPPED, "loop", seed, score, 81, 5) for seed, score in ((1, 0.9), (2, 0.8))]
    content = {"starts": {"1": {"pass_at_1": 0.5}}, "runs": {str(number): one for number, one in enumerate(rows)}}
    lines = list(table(content))
    assert len(lines) == 5
    assert lines[2] == ("| loop | 2 | 0.750 ± 0.635 | -0.150 ± 0.635 | 0.100 ± 0.000 | -0.050 ± 0.635 | 75% | 5.0% |")
    assert lines[3].strip() == "SFT: pass@1 0.500 over 1 seeds"
    assert lines[4].strip() == "clean: pass@1 0.900 ± 0.000 over 3 seeds"
    assert QUICK.arms[0] == (CLEAN, "none")
    assert len(QUICK.arms) == 5
