"""What is listed, and that nothing goes which somebody could still use."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import filelock
import pytest

from redi_lab.cli import main
from redi_lab.evaluation.results import content_digest
from redi_lab.run.interrupted import LOCK, Run
from redi_lab.verbs.runs import FoundRun, find_runs, removable


@pytest.fixture
def outputs(tmp_path: Path) -> Path:
    return tmp_path / "outputs"


def begin(folder: Path, identity: str = "x", command: str = "", began: float = 0.0) -> Path:
    (folder / "states" / "step-1").mkdir(parents=True)
    (folder / "states" / "step-1" / "tensors").write_bytes(b"0" * 1000)
    stages = {"stage": {"is": identity}}
    Run(overrides=[], working_dir="/", paths={}, stages=stages, command=command, began=began, folder=folder).save()
    return folder


def finish(folder: Path, score: float | None = 0.5) -> Path:
    metrics = {} if score is None else {"pass_at_1": {"value": score}}
    (folder / "summary.json").write_text(json.dumps({"name": "redi", "metrics": metrics}))
    return folder


def states(outputs: Path) -> dict[str, str]:
    return {run.folder.name: run.state for run in find_runs(outputs, outputs / "cache")}


def gone(outputs: Path, **options: bool | float) -> set[str]:
    runs = find_runs(outputs, outputs / "cache")
    return {str(item.folder.relative_to(outputs)) for item in removable(runs, **options)}  # type: ignore[arg-type]


def test_each_state_is_seen(outputs: Path) -> None:
    """Of two runs that one command began, only the last one would be continued."""
    finish(begin(outputs / "runs" / "done"))
    begin(outputs / "runs" / "anew", command="a", began=1.0)
    begin(outputs / "runs" / "waits", identity="wanted", command="a", began=2.0)
    begin(outputs / "runs" / "named")
    for name in (content_digest({"is": "wanted"})[:32], content_digest({"is": "x"})[:32], "f" * 32):
        (outputs / "cache" / "stages" / name).mkdir(parents=True)
    assert states(outputs) == {
        "done": "finished",
        "waits": "interrupted",
        "anew": "abandoned",
        "named": "interrupted",
        content_digest({"is": "wanted"})[:32]: "interrupted",
        content_digest({"is": "x"})[:32]: "interrupted",
        "f" * 32: "abandoned",
    }


def test_states_of_finished_runs_and_abandoned_runs_can_go(outputs: Path) -> None:
    finish(begin(outputs / "runs" / "done", command="a", began=2.0))
    begin(outputs / "runs" / "anew", command="a", began=1.0)
    begin(outputs / "runs" / "waits", command="b")
    assert gone(outputs) == {"runs/done/states", "runs/anew"}
    assert gone(outputs, interrupted=True) == {"runs/done/states", "runs/anew", "runs/waits"}
    assert gone(outputs, keep_days=1) == set()


def test_what_is_being_written_is_left_alone(outputs: Path) -> None:
    folder = begin(outputs / "runs" / "anew", command="a")
    begin(outputs / "runs" / "last", command="a", began=1.0)
    stage = outputs / "cache" / "stages" / "f"
    stage.mkdir(parents=True)
    with filelock.FileLock(folder / LOCK), filelock.FileLock(stage.with_suffix(".lock")):
        assert states(outputs) == {"anew": "running", "f": "running", "last": "interrupted"}
        assert gone(outputs, interrupted=True) == {"runs/last"}


def test_a_study_and_results_of_other_verbs_are_never_abandoned(outputs: Path) -> None:
    study = outputs / "sweeps" / "alpha"
    study.mkdir(parents=True)
    (study / "metrics.jsonl").touch()
    (outputs / "runs" / "graded").mkdir(parents=True)
    (outputs / "runs" / "graded" / "summary.json").write_text('{"name": "grade", "metrics": {}}')
    assert states(outputs) == {"graded": "finished"}
    assert gone(outputs, interrupted=True) == set()


def test_the_verb_removes_on_request_alone(outputs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finish(begin(outputs / "runs" / "done"), 0.25)
    begin(outputs / "runs" / "anew", command="a", began=1.0)
    finish(begin(outputs / "runs" / "again", command="a", began=2.0))
    where = f"paths.outputs_dir={outputs}"
    main(["runs", where])
    listed = capsys.readouterr().out
    assert "pass@1 0.250" in listed
    assert "abandoned" in listed
    main(["runs", "clean", where])
    assert "3 folders" in capsys.readouterr().out
    assert (outputs / "runs" / "anew").exists()
    main(["runs", "clean", "yes=true", where])
    assert not (outputs / "runs" / "anew").exists()
    assert (outputs / "runs" / "done" / "summary.json").exists()
    assert not (outputs / "runs" / "done" / "states").exists()


@pytest.mark.slow
def test_a_trained_run_is_listed_as_finished(tiny: Callable[..., list[str]], tmp_path: Path) -> None:
    main([*tiny("eval=none")])
    found: list[FoundRun] = find_runs(tmp_path / "outputs", tmp_path / "outputs" / "cache")
    assert {(run.name, run.state, run.is_stage) for run in found} == {
        ("demo_sft", "finished", True),
        ("demo", "finished", False),
    }
    assert all(run.size > 10_000 and run.modified > os.path.getmtime(tmp_path) - 600 for run in found)
    assert removable(found) == []
