"""The driver: exactly the budget, each trial once whatever is killed, and what the sampler is told."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from redi_lab.errors import RunInterruptedError, UserError, interruptible
from redi_lab.executor.local import share_of_machine
from redi_lab.verbs.sweep.results import best_trial, budget, view_trials
from redi_lab.verbs.sweep.study import Report, RunResult, RunSpec, Sweep, make_pruner, make_sampler, open_study
from redi_lab.verbs.sweep.trial import _try, violation
from redi_lab.verbs.sweep.workers import Claims, fixed_parameters, run_workers
from tests.conftest import REPOSITORY
from tests.verbs.sweep import fakes
from tests.verbs.sweep.fakes import work


def planned(sweep: Sweep, lease_seconds: float = 60.0) -> tuple[optuna.Study, Claims]:
    """The study with its budget waiting."""
    study = open_study(sweep)
    claims = Claims(study, fakes.changed(sweep, lease_seconds=lease_seconds).settings)
    claims.plan(sweep.budget())
    return study, claims


def states(study: optuna.Study) -> Counter[str]:
    return Counter(trial.state.name for trial in study.trials)


def test_the_budget_is_run_and_no_trial_more(tmp_path: Path) -> None:
    sweep = fakes.make_sweep(tmp_path)
    study, claims = planned(sweep)
    claims.plan(6)  # a second command plans nothing anew
    work(sweep, fakes.train)
    work(sweep, fakes.train)
    assert states(study) == {"COMPLETE": 6}
    claims.plan(8)  # a larger budget goes on
    work(sweep, fakes.train)
    assert states(study) == {"COMPLETE": 8}


def test_a_study_with_one_worker_is_reproducible_and_its_trials_differ(tmp_path: Path) -> None:
    tried = []
    for name in "ab":
        sweep = fakes.make_sweep(tmp_path / name)
        study, _ = planned(sweep)
        work(sweep, fakes.train)
        tried.append([trial.params for trial in study.trials])
    assert tried[0] == tried[1]
    assert len({str(params) for params in tried[0]}) == 6


def test_a_trial_is_proposed_by_the_sampler_of_its_own_number(tmp_path: Path) -> None:
    """The same values as where nothing lies between study and trial."""
    sweep = fakes.make_sweep(tmp_path / "worker", num_trials=8)
    study, _ = planned(sweep)
    work(sweep, fakes.train)
    by_hand = fakes.make_sweep(tmp_path / "by_hand", num_trials=8)
    expected, claims = planned(by_hand)
    while (claimed := claims.claim()) is not None:
        expected.sampler = make_sampler(by_hand, claimed.number)
        expected.pruner = make_pruner(by_hand.settings, expected)
        _try(expected, optuna.Trial(expected, claimed._trial_id), by_hand, fakes.train)
    assert [trial.params for trial in study.trials] == [trial.params for trial in expected.trials]


def test_workers_that_start_together_do_not_propose_the_same(tmp_path: Path) -> None:
    sweep = fakes.make_sweep(tmp_path, sampler="random")
    study = optuna.create_study()
    first = []
    for number in range(2):
        study.sampler = make_sampler(sweep, number)
        first.append(study.ask().suggest_float("x", 0, 1))
    assert first[0] != first[1]


def test_a_grid_is_run_once_point_by_point(tmp_path: Path) -> None:
    """In the default storage; the other tests keep their studies in a journal, which is quicker."""
    space = {"loss": ["redi", "dpo"], "loss.beta": {"choices": [0.1, 1.0], "when": {"loss": "dpo"}}}
    sweep = fakes.make_sweep(tmp_path, "sqlite", space=space, sampler="grid", num_trials=None)
    study, claims = planned(sweep)
    claims.plan(sweep.budget())
    work(sweep, fakes.train)
    assert sorted(str(trial.user_attrs["values"]) for trial in study.trials) == [
        "{'loss': 'dpo', 'loss.beta': 0.1}",
        "{'loss': 'dpo', 'loss.beta': 1.0}",
        "{'loss': 'redi'}",
    ]
    assert study.trials[0].user_attrs["command"] == "python -m redi_lab +experiment=demo loss=redi"


def test_a_sobol_sequence_is_run_point_by_point_and_continued(tmp_path: Path) -> None:
    sweep = fakes.make_sweep(tmp_path, sampler="sobol", num_trials=4)
    study, _ = planned(sweep)
    work(sweep, fakes.train)
    larger = fakes.changed(sweep, num_trials=6)
    planned(larger)
    work(larger, fakes.train)
    assert [trial.params for trial in study.trials] == larger.budget()
    assert states(study) == {"COMPLETE": 6}


def test_each_run_knows_its_seed_folder_parent_and_trial(tmp_path: Path) -> None:
    specs: list[RunSpec] = []

    def remember(spec: RunSpec, report: Report) -> RunResult:
        specs.append(spec)
        return fakes.train(spec, report)

    sweep = replace(
        fakes.make_sweep(tmp_path, num_trials=1, seeds=[5, 6]), parent_run_id="parent", local_overrides=("x=1",)
    )
    planned(sweep)
    work(sweep, remember)
    assert [spec.overrides[-1] for spec in specs] == ["seed=5", "seed=6"]
    assert all(spec.overrides[0] == "+experiment=demo" and "x=1" in spec.overrides for spec in specs)
    assert [spec.folder for spec in specs] == [tmp_path / "trials" / "0000" / f"seed={seed}" for seed in (5, 6)]
    assert {
        (spec.parent_run_id, spec.metric, spec.tags["redi_lab.trial"], spec.tags["redi_lab.study"]) for spec in specs
    } == {("parent", "val/pass_at_1", "0", "fake")}


@pytest.mark.parametrize("cause", [KeyboardInterrupt(), RunInterruptedError("SIGTERM")])
def test_a_trial_is_the_mean_over_its_seeds_and_goes_on_where_it_was_interrupted(
    cause: BaseException, tmp_path: Path
) -> None:
    begun: list[str] = []
    folders: list[Path] = []

    def interrupted(spec: RunSpec, report: Report) -> RunResult:
        seed = fakes.settings_of(spec)["seed"]
        begun.append(seed)
        folders.append(spec.folder)
        if begun == ["1", "2"]:
            raise cause
        return RunResult(float(seed) / 10, 0.0, 5, 5)

    sweep = fakes.make_sweep(tmp_path, num_trials=1, seeds=[1, 2, 3])
    study, _ = planned(sweep)
    with pytest.raises(type(cause)):
        work(sweep, interrupted)
    assert states(study) == {"FAIL": 1, "WAITING": 1}
    work(sweep, interrupted)
    assert begun == ["1", "2", "2", "3"]
    assert study.best_value == pytest.approx(0.2)
    assert study.best_trial.params == study.trials[0].params
    assert study.best_trial.user_attrs["retry_of"] == 0
    assert len({folder for folder in folders if "seed=2" in folder.name}) == 1  # where the interrupted run can go on
    view = view_trials(study)
    assert [trial.number for trial in view] == [1]  # the interrupted attempt is no trial of its own
    half = 4.302652729911275 * 0.1 / math.sqrt(3)  # Student's t with two degrees of freedom
    assert view[0].interval == pytest.approx((0.2 - half, 0.2 + half))


COLLAPSED = {"loss.alpha": [1.0], "optimizer.lr": [1.2e-3]}  # strength 4: after step 10


def test_a_collapse_is_told_with_its_worst_value_its_step_and_a_violated_constraint(tmp_path: Path) -> None:
    sweep = fakes.make_sweep(tmp_path, num_trials=1, space=COLLAPSED)
    study, _ = planned(sweep)
    work(sweep, fakes.train)
    trial = study.trials[0]
    assert trial.state == TrialState.COMPLETE
    assert trial.value == 0.6  # where it started; the last value would be better than any healthy one
    assert trial.constraints == {"collapse": pytest.approx(1 - 20 / 101)}
    assert (trial.user_attrs["collapse_step"], trial.user_attrs["collapse_reason"]) == (20, "both fell")
    assert trial.intermediate_values.keys() == {0, 10}
    assert best_trial(study) is None
    view = view_trials(study)
    assert (view[0].outcome, view[0].step, view[0].reason) == ("collapsed", 20, "both fell")
    assert (budget(view)["steps"], budget(view)["planned_steps"]) == (20, 100)


def test_an_earlier_collapse_is_worse_and_health_is_no_violation() -> None:
    def result(step: int | None) -> RunResult:
        return RunResult(0.9, 0.1, 100, 100, collapse_step=step)

    assert violation(result(10)) > violation(result(90)) > violation(result(100)) > 0 > violation(result(None))


def test_one_collapsed_seed_makes_a_trial_infeasible(tmp_path: Path) -> None:
    def one_of_two(spec: RunSpec, report: Report) -> RunResult:
        collapses = fakes.settings_of(spec)["seed"] == "2"
        return RunResult(0.9, 0.1, 5, 5, collapse_step=3 if collapses else None, reason="fell" if collapses else None)

    sweep = fakes.make_sweep(tmp_path, num_trials=1, seeds=[1, 2])
    study, _ = planned(sweep)
    work(sweep, one_of_two)
    assert study.trials[0].user_attrs["collapse_step"] == 3
    assert study.trials[0].value == pytest.approx(0.5)
    assert best_trial(study) is None


def test_a_collapse_before_the_first_measurement_is_infinitely_bad(tmp_path: Path) -> None:
    sweep = fakes.make_sweep(tmp_path, num_trials=1)
    study, _ = planned(sweep)
    work(sweep, lambda spec, report: RunResult(None, None, 1, 5, collapse_step=1, reason="fell"))
    assert (study.trials[0].state, study.trials[0].value) == (TrialState.COMPLETE, -math.inf)


def test_a_trial_that_is_behind_is_pruned(tmp_path: Path) -> None:
    learning = {"loss.alpha": [0.0], "optimizer.lr": {"low": 5.0e-5, "high": 2.0e-3, "log": True}}
    sweep = fakes.make_sweep(tmp_path, num_trials=12, pruner="median", space=learning, sampler="random")
    study, _ = planned(sweep)
    work(sweep, fakes.train)
    assert states(study)["PRUNED"] >= 2
    view = [trial for trial in view_trials(study) if trial.outcome == "pruned"]
    assert all(trial.reason == "behind" and trial.step is not None and 0 < trial.step < 100 for trial in view)
    assert budget(view)["steps"] < budget(view)["planned_steps"] == 100 * len(view)
    best = best_trial(study)
    assert best is not None
    assert best.params["optimizer.lr"] == max(trial.params["optimizer.lr"] for trial in study.trials)


def test_a_failing_trial_costs_itself_and_a_row_of_them_the_study(tmp_path: Path) -> None:
    calls = iter(range(100))

    def sometimes(spec: RunSpec, report: Report) -> RunResult:
        return fakes.fail(spec, report) if next(calls) == 1 else fakes.train(spec, report)

    sweep = fakes.make_sweep(tmp_path, num_trials=4)
    study, claims = planned(sweep)
    work(sweep, sometimes)
    assert states(study) == {"COMPLETE": 3, "FAIL": 1}
    assert study.trials[1].user_attrs["error"] == "data.path=nowhere: no such file"
    assert view_trials(study)[1].outcome == "failed"
    claims.plan(8)  # the same command makes up for what failed
    with pytest.raises(UserError, match=r"3 trials failed in a row, the last with: data.path=nowhere"):
        work(sweep, fakes.fail)
    assert states(study) == {"COMPLETE": 3, "FAIL": 4, "WAITING": 2}


def test_a_metric_that_is_never_measured_is_a_failure(tmp_path: Path) -> None:
    sweep = fakes.make_sweep(tmp_path, num_trials=1)
    study, _ = planned(sweep)
    work(sweep, lambda spec, report: RunResult(None, None, 5, 5))
    assert "was never measured" in study.trials[0].user_attrs["error"]


@pytest.mark.parametrize(
    ("change", "key"),
    [({"seeds": [1]}, "seeds"), ({"metric": "val/loss"}, "metric"), ({"space": {"loss.alpha": [0.1]}}, "space")],
)
def test_another_study_of_the_same_name_is_refused(change: dict[str, Any], key: str, tmp_path: Path) -> None:
    open_study(fakes.make_sweep(tmp_path))
    open_study(fakes.make_sweep(tmp_path, num_trials=9, sampler="gp", num_workers=3))  # these may change
    with pytest.raises(UserError, match=f"study fake in journal:///.* was begun with {key}="):
        open_study(fakes.make_sweep(tmp_path, **change))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The time that observers of a study see, as `now`."""
    clock = SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    monkeypatch.setattr("redi_lab.verbs.sweep.workers.time", clock)
    return clock


def test_a_trial_whose_worker_is_silent_is_given_to_another_a_few_times(tmp_path: Path, clock: SimpleNamespace) -> None:
    sweep = fakes.make_sweep(tmp_path, num_trials=1, max_retries=1)
    study, claims = planned(sweep, lease_seconds=60)
    dead = claims.claim()
    assert dead is not None
    assert claims.claim() is None  # seen for the first time
    clock.now = 61.0
    again = claims.claim()
    assert again is not None
    assert fixed_parameters(again) == fixed_parameters(dead)
    assert study.trials[0].user_attrs["interrupted"] == "no sign of life for 60 s"
    claims.claim()
    clock.now = 122.0
    assert claims.claim() is None
    assert "given up" in study.trials[1].user_attrs["error"]
    assert not claims.is_any_running()


def test_a_worker_that_gives_signs_of_life_keeps_its_trial(tmp_path: Path, clock: SimpleNamespace) -> None:
    study, claims = planned(fakes.make_sweep(tmp_path, num_trials=1), lease_seconds=0.01)
    _, observer = planned(fakes.make_sweep(tmp_path, num_trials=1), lease_seconds=60)
    trial = claims.claim()
    assert trial is not None
    with claims.alive():
        for _ in range(3):
            assert observer.claim() is None
            before = study.trials[0].user_attrs["beat"]
            while study.trials[0].user_attrs["beat"] == before:
                time.sleep(0.001)
            clock.now += 61.0
        assert observer.is_any_running()


def test_a_result_that_comes_after_the_lease_is_dropped(tmp_path: Path, clock: SimpleNamespace) -> None:
    sweep = fakes.make_sweep(tmp_path, num_trials=1)
    study, other = planned(sweep)

    def slow(spec: RunSpec, report: Report) -> RunResult:
        if len(study.trials) == 1:
            other.claim()
            clock.now = 61.0
            assert other.claim() is not None  # gives it to a worker that never ends: here, to nobody
            study._storage.set_trial_state_values(study.trials[1]._trial_id, TrialState.FAIL)
        return fakes.train(spec, report)

    work(sweep, slow)
    assert states(study) == {"FAIL": 2}


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_after_a_kill_nothing_is_lost_or_run_twice(storage: str, tmp_path: Path) -> None:
    """SIGKILL during the third trial: two are kept, the third is run again with the same parameters."""
    sweep = fakes.make_sweep(tmp_path, storage)
    study, _ = planned(sweep)
    line = [sys.executable, "-m", "tests.verbs.sweep.fakes", str(tmp_path), storage]
    worker = subprocess.Popen(line, cwd=REPOSITORY)
    log = tmp_path / "log"
    deadline = time.monotonic() + 120
    while not (log.exists() and log.read_text().count("began") == 3):
        assert worker.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    work(fakes.changed(sweep, lease_seconds=0.2), fakes.log_and_train)
    assert states(study) == {"COMPLETE": 6, "FAIL": 1}
    ended = [line.split()[2:4] for line in log.read_text().splitlines() if line.startswith("ended")]
    assert len(ended) == len({tuple(values) for values in ended}) == 6
    interrupted = next(trial for trial in study.trials if trial.state == TrialState.FAIL)
    retry = next(trial for trial in study.trials if trial.user_attrs.get("retry_of") == interrupted.number)
    assert retry.params == interrupted.params


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["sqlite", "journal"])
def test_two_workers_share_a_study_and_one_that_dies_is_replaced(storage: str, tmp_path: Path) -> None:
    sweep = fakes.make_sweep(tmp_path, storage, num_trials=8, num_workers=2, lease_seconds=1.0)
    study, _ = planned(sweep)
    run_workers(sweep, study, run=fakes.die_once)
    assert states(study) == {"COMPLETE": 8, "FAIL": 1}
    assert len({str(trial.params) for trial in study.trials if trial.state == TrialState.COMPLETE}) == 8


def test_a_signal_to_the_command_ends_its_workers_and_gives_their_trials_back(tmp_path: Path) -> None:
    """While trials run as while the winner is confirmed: both are `run_workers`."""
    sweep = fakes.make_sweep(tmp_path, num_trials=1)
    study, _ = planned(sweep)

    def terminate() -> None:
        while not (tmp_path / "began").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate, daemon=True)
    thread.start()
    with pytest.raises(RunInterruptedError, match="SIGTERM; to go on, again"), interruptible("again"):
        run_workers(sweep, study, run=fakes.begin_and_hang)
    thread.join()
    assert sum(trial.state == TrialState.WAITING for trial in study.trials) == 1


@pytest.mark.slow  # what one worker says is tested above, and how it crosses processes in tests/executor
def test_a_worker_that_gives_up_says_why(tmp_path: Path) -> None:
    sweep = fakes.make_sweep(tmp_path)
    study, _ = planned(sweep)
    with pytest.raises(UserError, match=r"3 trials failed in a row, the last with: data.path=nowhere: no such file"):
        run_workers(sweep, study, run=fakes.fail)


def test_workers_share_cores_and_gpus(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def share(number: int, num_workers: int, gpus: int | None = None) -> dict[str, str]:
        return share_of_machine(number, num_workers, gpus, "sweep.gpus_per_trial")

    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr("redi_lab.executor.local._GPUS", tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert share(1, 2) == {"OMP_NUM_THREADS": "4"}
    for number in range(4):
        (tmp_path / str(number)).touch()
    assert share(0, 1) == {}
    assert share(3, 4)["CUDA_VISIBLE_DEVICES"] == share(7, 8)["CUDA_VISIBLE_DEVICES"] == "3"
    assert [share(number, 2, 2)["CUDA_VISIBLE_DEVICES"] for number in range(2)] == ["0,1", "2,3"]
    assert share(0, 1, 3) == {"CUDA_VISIBLE_DEVICES": "0,1,2"}
    with pytest.raises(UserError, match=r"^sweep.gpus_per_trial=2: 3 at once need 6 GPUs, and this machine has 4"):
        share(0, 3, 2)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert share(2, 3) == {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "5"}
    assert share(1, 2, 1)["CUDA_VISIBLE_DEVICES"] == "7"
