"""What a sampler learns of collapse, on a synthetic objective, against the ways in which it could naively be told.

Beyond a ridge in (α, learning rate) training collapses, and up to then it looks better than any healthy run.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, GPSampler, TPESampler
from optuna.trial import Trial, TrialState

from redi_lab.verbs.sweep.study import RunResult
from redi_lab.verbs.sweep.trial import CONSTRAINT, reported_value, violation
from tests.verbs.sweep.fakes import STEPS, accuracy

Tell = Callable[[optuna.Study, Trial, float, int], None]


def as_violation(study: optuna.Study, trial: Trial, last: float, step: int) -> None:
    """As the driver does it."""
    result = RunResult(last, 0.6, step, STEPS, collapse_step=step)
    trial.set_constraint(CONSTRAINT, violation(result))
    study.tell(trial, reported_value([result], "max"))


def as_failure(study: optuna.Study, trial: Trial, last: float, step: int) -> None:
    """Also what becomes of NaN."""
    study.tell(trial, state=TrialState.FAIL)


def as_pruned(study: optuna.Study, trial: Trial, last: float, step: int) -> None:
    study.tell(trial, state=TrialState.PRUNED)


def as_last_value(study: optuna.Study, trial: Trial, last: float, step: int) -> None:
    trial.set_constraint(CONSTRAINT, -1.0)
    study.tell(trial, last)


def share_of_collapses(tell: Tell, make_sampler: Callable[[int], BaseSampler], num_trials: int, seed: int) -> float:
    """Share of collapsing proposals after the first ten."""
    study = optuna.create_study(direction="maximize", sampler=make_sampler(seed))
    collapses = []
    for _ in range(num_trials):
        trial = study.ask()
        alpha, lr = trial.suggest_float("alpha", 0, 1), trial.suggest_float("lr", 5e-5, 2e-3, log=True)
        curve = [(step, accuracy(alpha, lr, step)) for step in range(0, STEPS + 1, 10)]
        healthy = [(step, value) for step, value in curve if value is not None]
        for step, value in healthy:
            trial.report(value, step)
        collapses.append(len(healthy) < len(curve))
        if collapses[-1]:
            tell(study, trial, healthy[-1][1], curve[len(healthy)][0])
        else:
            trial.set_constraint(CONSTRAINT, -1.0)
            study.tell(trial, healthy[-1][1])
    return float(np.mean(collapses[10:]))


def tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed, n_startup_trials=5)


def gp(seed: int) -> BaseSampler:
    return GPSampler(seed=seed, n_startup_trials=5)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def mean_share(tell: Tell, sampler: Callable[[int], BaseSampler], num_trials: int, num_seeds: int) -> float:
    return float(np.mean([share_of_collapses(tell, sampler, num_trials, seed) for seed in range(num_seeds)]))


def test_tpe_stops_proposing_what_collapses() -> None:
    ours, failed, last = (mean_share(tell, tpe, 40, 3) for tell in (as_violation, as_failure, as_last_value))
    assert ours < 0.35
    assert last > ours + 0.1
    assert failed > 0.8


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_the_gaussian_process_learns_from_a_violation_and_nothing_from_a_pruned_trial() -> None:
    assert mean_share(as_violation, gp, 24, 2) < 0.3
    assert mean_share(as_pruned, gp, 24, 1) > 0.8


def test_a_late_collapse_ranks_behind_a_trial_that_was_pruned_early() -> None:
    """As PRUNED, the collapsed one would be TPE's better example: it went further."""
    from optuna.samplers._tpe.sampler import _split_trials

    for tell, better in ((as_violation, "pruned early"), (as_pruned, "collapsed late")):
        study = optuna.create_study(direction="maximize")
        for what, steps in (("pruned early", 20), ("collapsed late", 90)):
            trial = study.ask()
            trial.set_user_attr("what", what)
            for step in range(0, steps, 10):
                trial.report(0.7, step)
            if what == "pruned early":
                study.tell(trial, state=TrialState.PRUNED)
            else:
                tell(study, trial, 0.9, steps)
        below, _ = _split_trials(study, study.trials, 1)
        assert [t.user_attrs["what"] for t in below] == [better]
