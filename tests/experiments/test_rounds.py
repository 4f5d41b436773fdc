"""The study of rounds: what its arms share and where they differ, arms that end early, and tables that add up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from experiments.collapse_edges.plan import is_harmed
from experiments.rounds import report
from experiments.rounds.arms import FRESH, OBJECTIVES, ONCE, SOURCES, TEACHER, Scope, folder_of, prepare, train_arm
from tests.verbs.test_rounds import Engine, engine

__all__ = ["engine"]  # the fixture
SEED = 7


@pytest.fixture
def scope(tiny: Callable[..., list[str]]) -> Scope:
    """Two rounds of a tiny student, scored on four problems."""
    smaller = [one for one in tiny() if one.startswith(("data.", "model.", "trainer.", "eval."))]
    return Scope(rounds=2, steps=1, problems=6, smaller=(*smaller, "eval.limit=4"))


def problems_of(folder: Path) -> list[str]:
    return [row["problem"] for row in pq.read_table(folder / "pairs.parquet").to_pylist()]


@pytest.mark.slow  # six tiny trainings, and as many evaluations
def test_sources_differ_in_their_traces_alone(scope: Scope, engine: Engine, tmp_path: Path) -> None:
    prepare(tmp_path, scope, SEED)
    rows = {source: train_arm(tmp_path, scope, SEED, "NSR", source) for source in SOURCES}
    for source, row in rows.items():
        assert row["stopped"] is None
        assert 0 <= row["fresh"]["pass_at_1"] <= 1
        assert len(row["accuracy"]) == len(row["fall"]) == 3
        assert row["fall"][0] == 0
        assert len(row["stale"]) == (0 if source == TEACHER else 2)
        assert all(0 < one["ess_share"] <= 1 for one in row["stale"])
    folders = {
        TEACHER: folder_of(tmp_path, scope, TEACHER, SEED, 2) / f"curated_{SEED}",
        ONCE: folder_of(tmp_path, scope, ONCE, SEED, 2) / f"curated_{SEED}",
        FRESH: folder_of(tmp_path, scope, "NSR", FRESH, SEED, "round_2") / "curated",
    }
    found = {source: problems_of(folder) for source, folder in folders.items()}
    assert found[ONCE] == found[FRESH]
    assert found[ONCE]
    assert set(found[TEACHER]) <= set(found[ONCE])  # its pairs, where it was both right and wrong
    configs = []
    for source in SOURCES:
        training = folder_of(tmp_path, scope, "NSR", source, SEED, "round_2") / "training"
        config = json.loads((training / "summary.json").read_text(encoding="utf-8"))["config"]
        assert config["init_from"] == str(training.parents[1] / "round_1" / "training" / "checkpoints" / "last")
        configs.append({key: config[key] for key in ("loss", "optimizer", "scheduler", "trainer", "seed")})
        assert config["data"]["batch_size"] == 16
    assert configs[0] == configs[1] == configs[2]
    asked = len(engine.requests)
    again = train_arm(tmp_path, scope, SEED, "NSR", FRESH)
    assert {**again, "seconds": 0} == {**rows[FRESH], "seconds": 0}
    assert len(engine.requests) == asked


@pytest.mark.slow
def test_a_policy_that_is_never_right_ends_its_arm(
    scope: Scope, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, scope, SEED)
    say = engine.says
    monkeypatch.setattr(
        engine, "says", lambda prompt, sample: say(prompt, sample + ("round_1" in str(engine.checkpoints[-1])))
    )
    row = train_arm(tmp_path, scope, SEED, "NSR", FRESH)
    assert "to train on" in row["stopped"]
    assert len(row["accuracy"]) == 2
    assert is_harmed(row)


def row_of(objective: str, source: str, seed: int, last: float) -> dict[str, Any]:
    stale = [] if source == TEACHER else [{"kl_per_token": 0.01, "ess_share": 0.5}] * 2
    scores = {"pass_at_1": last, "haste": 0.25}
    content = {"accuracy": [0.5, 0.6, last], "fall": [0.0, 0.1, 0.2], "pairs": [10, 20], "steps": 12, "seconds": 90.0}
    state = {"state": "collapsed" if last < 0.2 else "healthy", "state_step": 24, "stopped": None}
    return {"objective": objective, "source": source, "seed": seed, "stale": stale, "fresh": scores, **content, **state}


def test_tables_and_figure(tmp_path: Path) -> None:
    """NSR collapses on the teacher's traces on both seeds, and on none of its own."""
    rows = [row_of("NSR", TEACHER, seed, 0.1) for seed in (1, 2)]
    rows += [row_of("NSR", FRESH, seed, score) for seed, score in ((1, 0.8), (2, 0.7), (3, 0.9))]
    content = {"starts": {"1": {"pass_at_1": 0.5}}, "runs": {str(number): one for number, one in enumerate(rows)}}
    lines = report.write_report(content, tmp_path).splitlines()
    teacher, fresh = (
        next(line for line in lines if line.startswith(f"| NSR | {source} ")) for source in (TEACHER, FRESH)
    )
    assert teacher.split(" | ")[2:7] == ["2", "0.100 ± 0.000", "0.250 ± 0.000", "2 (16%–100%)", "2 (16%–100%)"]
    assert teacher.split(" | ")[7:] == ["0.200", "–", "–", "15", "90 |"]
    assert fresh.split(" | ")[5:10] == ["0 (0%–71%)", "0 (0%–71%)", "0.200", "0.010", "0.500"]
    assert "| NSR | own, fresh − teacher's | 2 | 0.650 ± 0.635 | 0, 0, 2, 0 |" in lines
    assert (tmp_path / "curves.png").stat().st_size > 5000
    assert list(OBJECTIVES)[:2] == ["NSR", "W-REINFORCE"]
