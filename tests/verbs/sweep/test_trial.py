"""One real training run of a trial: where its value comes from, and what a kill leaves of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from redi_lab.config.compose import load_config
from redi_lab.run.benchmarks import make_benchmark
from redi_lab.run.build import make_source
from redi_lab.run.stages import OpenedData
from redi_lab.verbs.sweep.study import EVALUATED, RunResult, RunSpec
from redi_lab.verbs.sweep.trial import train
from redi_lab.verbs.train.development import load_development
from redi_lab.verbs.train.stage import Job
from tests.conftest import TINY_TASK

DEVELOPMENT = ("eval.benchmark=development", "eval.name=development")


def test_development_problems_are_those_of_accuracy_during_training() -> None:
    config = load_config("train", [*TINY_TASK, "eval=development"])
    data = OpenedData(config)
    watched = load_development(config, data, None).benchmark
    benchmark = make_benchmark(config, make_source(config).load)
    assert watched is not None
    assert benchmark is not None
    assert benchmark.digest == watched.digest
    assert benchmark.describe is not None  # haste and columns, as of any evaluation of the task
    final = make_benchmark(load_config("train", list(TINY_TASK)), make_source(config).load)
    assert final is not None
    assert not {p.problem for p in final.problems} & {p.problem for p in benchmark.problems}


def test_a_trial_is_evaluated_as_a_final_evaluation_would_and_goes_on_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redi_lab.verbs.sweep.trial.send_screen_to", lambda path: None)
    off = [f"callbacks.{name}=null" for name in ("accuracy", "probes", "gradient_conflict", "collapse")]
    overrides = (*TINY_TASK, "+experiment=demo_sft", "logger=none", f"paths.outputs_dir={tmp_path}", *DEVELOPMENT, *off)
    spec = RunSpec(overrides, tmp_path / "seed=1", EVALUATED, "max")

    def run() -> RunResult:
        return train(spec, lambda value, step: False)

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as killed:
        killed.setattr(Job, "_evaluate", kill)
        with pytest.raises(KeyboardInterrupt):
            run()
    trained = (spec.folder / "trained.json").stat().st_mtime_ns
    found = run()
    summary: dict[str, Any] = json.loads((spec.folder / "summary.json").read_text())
    assert (spec.folder / "trained.json").stat().st_mtime_ns == trained  # it was not trained again
    score = summary["metrics"]["pass_at_1"]
    assert (found.value, found.ci_low, found.ci_high) == (score["value"], score["ci_low"], score["ci_high"])
    assert (found.steps, found.planned_steps) == (3, 3)
    assert (len(found.details["right"]), found.details["num_samples"]) == (4, 2)
    assert summary["evaluation"]["protocol"]["sampling"]["temperature"] == 0.6
    again = run()  # killed before it could report: read, not trained
    assert (again.value, again.steps, again.details) == (found.value, found.steps, found.details)
