"""The comparison at equal budgets: equal budgets indeed, starts that are shared, and tables that say what rows say."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf

from experiments.equal_budget import report, run
from experiments.equal_budget.plan import (
    FULL,
    METHODS,
    QUICK,
    SFT,
    Method,
    Scope,
    final_overrides,
    finals,
    start_overrides,
    sweep_arguments,
)
from redi_lab.config.compose import load_config
from redi_lab.run.stages import resolve_chain
from redi_lab.verbs.sweep.driver import compose_sweep


def shown_or_slow(method: Method) -> object:
    """The smallest and the largest space by default."""
    return pytest.param(method, marks=[] if method.name in ("simper", "simpo") else pytest.mark.slow, id=method.name)


@pytest.mark.parametrize("method", [shown_or_slow(method) for method in METHODS])
def test_every_search_has_the_same_budget_seeds_and_protocol(method: Method, tmp_path: Path) -> None:
    _, sweep = compose_sweep([*sweep_arguments("arithmetic", method, FULL), f"paths.outputs_dir={tmp_path}"])
    settings = sweep.settings
    assert (settings.sampler, settings.metric, settings.pruner) == ("sobol", "eval/pass_at_1", "none")
    assert settings.seeds == [201, 202, 203]
    points = sweep.budget()
    assert isinstance(points, list)
    assert len(points) == 24
    rates = [float(point["optimizer.lr"]) for point in points]  # type: ignore[arg-type]
    assert 1e-5 <= min(rates) < 2e-5
    assert 5e-4 < max(rates) <= 1e-3
    trial = load_config("train", [*sweep.overrides, *sweep.local_overrides])
    assert (trial.data.num_development, trial.eval.num_samples, trial.eval.temperature) == (200, 4, 0.6)
    assert trial.eval.benchmark == "development"
    assert all(trial.callbacks[name] is None for name in ("accuracy", "probes", "gradient_conflict", "collapse"))


@pytest.mark.parametrize(
    ("task", "scope"),
    [("arithmetic", FULL), pytest.param("chains", FULL, marks=pytest.mark.slow), ("arithmetic", QUICK)],
)
def test_all_trainings_of_a_seed_start_from_the_sft_that_is_trained_beforehand(task: str, scope: Scope) -> None:
    start = resolve_chain(load_config("train", words := start_overrides(task, 301, scope)), words)[-1]
    for method in (METHODS[0], METHODS[2]):
        words = final_overrides(task, method, {"optimizer.lr": 1e-4}, 301, scope)
        chain = resolve_chain(load_config("train", words), words)
        assert chain[0].fingerprint == start.fingerprint
        assert OmegaConf.select(chain[-1].config, "eval.num_samples") == scope.final_samples
        assert OmegaConf.select(chain[-1].config, "eval.benchmark") == "heldout"
    arguments = [word for word in sweep_arguments(task, METHODS[0], scope) if "sweep." not in word][2:]
    words = [*arguments, "seed=301"]
    assert resolve_chain(load_config("train", words), words)[0].fingerprint == start.fingerprint


def test_finals_are_on_fresh_seeds_all_methods_of_one_before_the_next() -> None:
    assert not set(FULL.tuning_seeds) & set(FULL.final_seeds)
    order = list(finals(FULL))
    assert len(order) == 8 * len(METHODS)
    assert {seed for _, seed in order[: len(METHODS)]} == {301}


def test_the_expected_best_is_that_of_all_draws() -> None:
    scores = np.array([0.2, 0.9, 0.5])
    pairs = [(a, b) for a in scores for b in scores]
    assert report.expected_best(scores, 1) == pytest.approx(scores.mean())
    assert report.expected_best(scores, 2) == pytest.approx(np.mean([max(pair) for pair in pairs]))
    low, high = report.band(scores, [1, 2, 3])
    assert np.all(low <= [report.expected_best(scores, n) for n in (1, 2, 3)])
    assert np.all(np.diff(low) >= -1e-9)
    assert high == pytest.approx([0.9] * 3)


SCOPE = Scope(methods=METHODS[:2], num_trials=3, final_seeds=(1, 2, 3, 4), final_samples=4)


def evaluation(right: str) -> dict[str, Any]:
    rate = sum(map(int, right)) / 4 / len(right)
    return {"pass_at_1": rate, "greedy_pass_at_1": rate, "haste": 0.1, "columns": 0.9, "right": right}


def content() -> dict[str, dict[str, Any]]:
    """REDI right on all of two problems, symmetric on half of them, and SFT on little more or less than that."""
    trials = {}
    for method in METHODS[:2]:
        for number, score in enumerate((0.3, 0.8, 0.8)):
            values = {"loss.alpha": 0.25 * number, "optimizer.lr": 1e-4}
            row = {"method": method.name, "trial": number, "values": values, "score": score, "by_seed": [score] * 3}
            trials[f"{method.name}/{number}"] = {**row, "haste": 0.5, "columns": 0.7}
    runs = {}
    for method, right in zip(METHODS[:2], ("44", "22"), strict=True):
        for seed in SCOPE.final_seeds:
            row = {"method": method.name, "seed": seed, "values": {}, "last": evaluation(right)}
            runs[f"{method.name}_s{seed}"] = row | {"best": evaluation("44")}
    starts = {
        str(s): {"method": SFT, "seed": s, "last": evaluation(right)}
        for s, right in zip(SCOPE.final_seeds, ("22", "13", "23", "12"), strict=True)
    }
    return {"trials": trials, "runs": runs, "starts": starts}


def test_the_report_ranks_and_claims_no_more_than_holm_allows(tmp_path: Path) -> None:
    text = report.write_report(SCOPE, content(), tmp_path, "made_up")
    last, best = text.split("## Winners on fresh seeds")[1:]
    ranked = [line.split(" | ")[0] for line in last.splitlines() if line.startswith("| ") and "(" in line]
    assert ranked[1:4] == ["| REDI", "| symmetric REDI", "| SFT alone"]
    redi = next(line for line in last.splitlines() if line.startswith("| REDI |"))
    assert redi == "| REDI | 1.000 (1.000 to 1.000) | 1.000 | 0.100 | 0.900 | SFT alone |"  # no spread, no test
    assert "| REDI − symmetric REDI | +0.500 (" in last
    assert "| symmetric REDI − SFT alone | +0.000 (" in last
    assert "| REDI | 3/3 | 0.800 | 0.800, 0.800, 0.800 | alpha 0.25, lr 0.0001 |" in text
    assert next(line for line in best.splitlines() if line.startswith("| symmetric")).endswith("| SFT alone |")
    for name in ("best_of_n", "haste_and_skill"):
        assert (tmp_path / f"{name}_made_up.png").stat().st_size > 5000
    assert (tmp_path / "tables_made_up.md").read_text(encoding="utf-8") == text


def test_only_seeds_that_all_methods_have_are_compared() -> None:
    rows = content()
    del rows["runs"]["redi_s2"]
    found = report.runs_of(rows, "last")
    assert {tuple(seeds) for seeds in found.values()} == {(1, 3, 4)}


def test_a_winner_is_the_first_of_the_best() -> None:
    rows = [row for row in content()["trials"].values() if row["method"] == "redi"]
    assert run.winner(rows)["trial"] == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_quick_form_runs_and_goes_on_from_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["run.py", "--quick", "--workers", "2", "--outputs", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr("experiments.equal_budget.run.signal.signal", lambda *_: None)
    monkeypatch.setenv("PYTHONWARNINGS", "default")
    run.main()
    first = capsys.readouterr().out
    assert "## Winners on fresh seeds, best on development problems" in first
    folder = tmp_path / "arithmetic_quick"
    rows = (folder / "results_arithmetic_quick.json").read_bytes()
    trained = {path: path.stat().st_mtime_ns for path in folder.rglob("trained.json")}
    assert len(trained) == 4 + len(QUICK.methods) * (2 * 2 + 2)  # starts; two trials of two seeds; two final seeds
    run.main()
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("trained.json")} == trained
    assert (folder / "results_arithmetic_quick.json").read_bytes() == rows
