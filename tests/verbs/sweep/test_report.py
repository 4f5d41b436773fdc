"""The results of a study: page, pictures, numbers, the winner as an experiment, and the confirmation."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from matplotlib._pylab_helpers import Gcf

from redi_lab.run.study_storage import open_storage
from redi_lab.verbs.sweep.confirm import compare_arms, confirm
from redi_lab.verbs.sweep.report import Axis, plot_map, summarise, write_report
from redi_lab.verbs.sweep.results import TrialView, best_trial, seed_interval, view_trials
from redi_lab.verbs.sweep.space import parse_space
from redi_lab.verbs.sweep.study import Report, RunResult, RunSpec, Sweep, open_study
from tests.notebooks import run_notebook
from tests.verbs.sweep import fakes
from tests.verbs.sweep.fakes import work
from tests.verbs.sweep.test_study import planned


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """A study with finished, collapsed, pruned and failed trials."""
    calls = iter(range(100))

    def train(spec: RunSpec, report: Report) -> RunResult:
        return fakes.fail(spec, report) if next(calls) == 2 else fakes.train(spec, report)

    sweep = fakes.make_sweep(tmp_path_factory.mktemp("study"), num_trials=20, pruner="median", sampler="random")
    planned(sweep)
    work(sweep, train)
    return sweep


def test_the_page_needs_nothing_else_and_tells_all(finished: Sweep) -> None:
    study = open_study(finished)
    confirmation = compare_arms(
        (1, 2), *([np.full((4, 2), is_right)] * 2 for is_right in (True, False)), has_same_problems=False
    )
    files = write_report(finished, study, confirmation)
    names = [file.name for file in files]
    assert names == ["map.png", "index.html"]
    assert files[0].stat().st_size > 5_000
    page = files[-1].read_text()
    assert page.count("data:image/png;base64,") == 1
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")
    outcomes = {trial.outcome for trial in view_trials(study)}
    assert outcomes == {"finished", "collapsed", "pruned", "failed"}
    for part in ("collapsed at step", "both fell", "behind", "no such file", "Confirmation", "saved", "run of "):
        assert part in page
    winner = best_trial(study)
    assert winner is not None
    assert f"python -m redi_lab +experiment=demo loss.alpha={winner.params['loss.alpha']:g} optimizer.lr=" in page
    assert Gcf.get_all_fig_managers() == []


def test_the_notebook_shows_the_trials_and_the_expected_best(finished: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    left, (map_figure, best_figure) = run_notebook("sweep.ipynb", monkeypatch, STORAGE=finished.settings.storage)
    trials, views = left["trials"], view_trials(open_study(finished))
    assert list(trials.outcome) == [view.outcome for view in views]
    dots, crosses = map_figure.axes[0].collections
    assert (len(dots.get_offsets()), len(crosses.get_offsets())) == (
        sum(view.outcome == "finished" for view in views),
        sum(view.outcome == "collapsed" for view in views),
    )
    (curve,) = best_figure.axes[0].lines
    drawn = np.asarray(curve.get_ydata())
    values = [v.value if v.outcome == "finished" else None for v in views if v.outcome in ("finished", "collapsed")]
    known = [value for value in values if value is not None]
    pool = [min(known) if value is None else value for value in values]
    assert drawn[0] == pytest.approx(np.mean(pool))
    assert drawn[1] == pytest.approx(np.mean([max(a, b) for a in pool for b in pool]))
    assert all(np.diff(drawn) >= 0)


def test_the_summary_adds_up(finished: Sweep) -> None:
    study = open_study(finished)
    summary = json.loads(json.dumps(summarise(finished, study, None), allow_nan=False))
    metrics = summary["metrics"]
    assert (
        metrics["num_finished"] + metrics["num_collapsed"] + metrics["num_pruned"] == 20 - metrics["num_failed"] == 19
    )
    assert metrics["steps"] == sum(trial["steps"] for trial in summary["trials"])
    assert 0 < metrics["steps"] < metrics["planned_steps"] == 19 * fakes.STEPS
    best = summary["trials"][summary["best_trial"]]
    assert (
        best["value"]
        == metrics["best_value"]
        == max(t["value"] for t in summary["trials"] if t["outcome"] == "finished")
    )
    assert best["interval"] == pytest.approx([best["value"] - 0.1, best["value"] + 0.1])
    assert best["command"] == summary["best_command"]
    assert best["runs"][0]["commit"] == "abc"
    assert best["runs"][0]["mlflow_run_id"] == "run of seed=42"


def test_several_seeds_show_their_values_and_their_interval(tmp_path: Path) -> None:
    def by_seed(spec: RunSpec, report: Report) -> RunResult:
        value = {"1": 0.5, "2": 0.75, "3": 0.25}[fakes.settings_of(spec)["seed"]]
        return replace(fakes.train(spec, lambda *_: False), value=value, stopped_by=None, collapse_step=None)

    sweep = fakes.make_sweep(tmp_path, num_trials=1, seeds=[1, 2, 3])
    study, _ = planned(sweep)
    work(sweep, by_seed)
    page, half = write_report(sweep, study, None)[-1].read_text(), 4.302652729911275 * 0.25 / np.sqrt(3)
    for cell in ("by seed", "0.5 0.75 0.25", f"{0.5 - half:.3f} to {0.5 + half:.3f}"):
        assert cell in page
    metrics = summarise(sweep, study, None)["metrics"]
    interval = [metrics[f"best_value{end}"] for end in ("", "_ci_low", "_ci_high")]
    assert interval == pytest.approx([0.5, 0.5 - half, 0.5 + half])


def test_a_study_without_a_single_result_is_told_too(tmp_path: Path) -> None:
    sweep = fakes.make_sweep(tmp_path)
    study, _ = planned(sweep)
    files = write_report(sweep, study, None)
    assert "No trial finished without a collapse" in files[-1].read_text()
    assert summarise(sweep, study, None)["best_trial"] is None


def trial_at(value: float, **values: float) -> TrialView:
    by_path = {k.replace("_", ".", 1): v for k, v in values.items()}
    return TrialView(0, by_path, "finished", value, [value], None, None, None, 1, 1, 1, "", [])


def test_cells_of_the_map_are_values_or_equal_bins() -> None:
    space = parse_space(fakes.SPACE)
    alpha, lr = (Axis(parameter, num_trials=8) for parameter in space)
    assert alpha.labels == ["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1"]
    assert alpha.cell(trial_at(0.5, loss_alpha=0.3)) == 3
    assert len(lr.labels) == 4  # each a factor of 40 ** (1 / 4) wide
    edges = [5e-5, 1.2e-4, 1.3e-4, 1.9e-3, 2e-3]
    assert [lr.cell(trial_at(0.5, optimizer_lr=value)) for value in edges] == [0, 0, 1, 3, 3]


def test_a_map_needs_two_parameters(tmp_path: Path) -> None:
    space = parse_space({"loss": ["redi", "dpo"], "loss.beta": {"choices": [1.0], "when": {"loss": "dpo"}}})
    assert plot_map([], space, "m", tmp_path / "map.png") is None


def test_an_interval_over_seeds_is_students() -> None:
    assert seed_interval([0.5]) is None
    low, high = seed_interval([0.4, 0.6]) or (0, 0)
    assert (low, high) == pytest.approx((0.5 - 12.7062 * 0.1, 0.5 + 12.7062 * 0.1), abs=1e-4)


def test_arms_are_compared_over_seeds_and_over_problems() -> None:
    """Winner right on 3, 4 and 3 of 4 problems, baseline on 2: +0.25, +0.5 and +0.25, whose mean has 0.25 / 3."""
    three, four = np.array([[1], [1], [1], [0]], bool), np.ones((4, 1), bool)
    baseline = [np.array([[1], [1], [0], [0]], bool)] * 3
    found = compare_arms((7, 8, 9), [three, four, three], baseline, has_same_problems=False)
    assert (found.winner, found.baseline) == ((0.75, 1.0, 0.75), (0.5, 0.5, 0.5))
    assert found.difference == pytest.approx(found.over_problems.difference.value)
    assert found.interval() == pytest.approx((1 / 3 - 4.3027 * 0.25 / 3, 1 / 3 + 4.3027 * 0.25 / 3), abs=1e-4)
    assert found.verdict().startswith("On 3 fresh seeds the winner is not told apart from the run without")
    assert "12 problems" in found.verdict()


def test_a_problem_that_every_seed_answers_counts_once() -> None:
    """Two of eight problems get better on each of three seeds: p = 1/2, not 2 · 2⁻⁶."""
    better, same = np.array([[1]] * 5 + [[0]] * 3, bool), np.array([[1]] * 3 + [[0]] * 5, bool)
    made = compare_arms((7, 8, 9), [better] * 3, [same] * 3, has_same_problems=True)
    found = made.over_problems
    assert (found.difference.num_problems, found.difference.value, found.p_value) == (8, 0.25, 0.5)
    assert "not told apart from" in made.verdict()  # seeds that agree do not make up for few problems
    assert "not told apart from" in compare_arms((7,), [better], [same], has_same_problems=True).verdict()


def test_a_winner_is_confirmed_on_fresh_seeds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("redi_lab.verbs.sweep.confirm.run_workers", lambda arm, study, run: work(arm, run))
    sweep = fakes.make_sweep(tmp_path, num_trials=5, confirm_seeds=[101, 102])
    study, _ = planned(sweep)
    work(sweep, fakes.train)
    winner = best_trial(study)
    assert winner is not None
    found = confirm(sweep, winner, fakes.train)
    assert f"Confirming: trial {winner.number} " in capsys.readouterr().out
    default = fakes.accuracy(0.8, 2e-4, fakes.STEPS)
    assert winner.value is not None
    assert default is not None
    assert found.seeds == (101, 102)
    assert found.baseline == (round(4 * default) / 4,) * 2
    assert found.winner == (round(4 * winner.value) / 4,) * 2
    arm = optuna.load_study(study_name="fake.confirm-baseline", storage=open_storage(sweep.settings.storage))
    assert sorted(trial.params["seed"] for trial in arm.trials) == [101, 102]


@pytest.mark.parametrize(
    ("space", "overrides", "title"),
    [
        ({"loss.alpha": [0.2, 0.8], "optimizer.lr": [1e-4]}, ("+experiment=demo",), "fake, redi"),
        ({"optimizer.lr": [1e-4]}, ("+experiment=demo_simpo", "loss.gamma=0.5"), "fake, simpo β10 γ.5"),
        ({"loss": ["redi", "dpo"], "optimizer.lr": [1e-4]}, ("+experiment=demo",), "fake"),
    ],
)
def test_plots_name_the_objective(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: dict[str, Any], overrides: tuple[str, ...], title: str
) -> None:
    sweep = replace(fakes.make_sweep(tmp_path, space=space), overrides=overrides)
    titles: list[str] = []
    monkeypatch.setattr("redi_lab.verbs.sweep.report.plot_map", lambda *args: titles.append(args[-1]))
    write_report(sweep, planned(sweep)[0], None)
    assert titles == [title]
