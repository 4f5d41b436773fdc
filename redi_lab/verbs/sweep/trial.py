"""Runs one trial after the other, and reports each to Optuna so that the sampler learns from collapses.

A collapsed trial is reported as COMPLETE with the worst value that it measured, and as violating the constraint
`collapse` by the share of the training that it missed. So TPE ranks it behind every trial that finished or was pruned,
an earlier collapse behind a later one, and the Gaussian process learns both that it is bad and where collapse is
likely. The other ways teach nothing or the wrong thing: FAIL (also what NaN becomes) is ignored by every sampler,
PRUNED by the Gaussian process, and the last value looks good when the alarm comes before the crash.
"""

from __future__ import annotations

import math
import shlex
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict

import optuna
from optuna.trial import Trial, TrialState

from redi_lab.errors import UserError
from redi_lab.files import explained, is_disk_full, naming
from redi_lab.verbs.sweep.claims import origin
from redi_lab.verbs.sweep.space import as_overrides, suggest
from redi_lab.verbs.sweep.study import RunResult, RunSpec, RunTraining, Sweep, make_pruner, make_sampler, open_study

CONSTRAINT = "collapse"


def make_work(sweep: Sweep, run: RunTraining | None) -> Callable[[int], str | None]:
    """What a worker does: run the trial of an id, which it holds, and report it; the error, if it had one.

    Args:
        sweep: the study and how its trials run.
        run: trains once; None: as the verb train does.
    """
    if run is None:
        from redi_lab.verbs.sweep.trial_run import train  # imports torch

        run = train
    study, train_once = open_study(sweep), run

    def work(trial_id: int) -> str | None:
        # Reads all trials: Optuna's cache takes no values for one that it does not know.
        number = next(trial.number for trial in study.get_trials(deepcopy=False) if trial._trial_id == trial_id)
        study.sampler = make_sampler(sweep, number)  # before the trial, which asks it at once
        study.pruner = make_pruner(sweep.settings, study)
        trial = Trial(study, trial_id)
        try:
            with naming(sweep.folder):
                return _try(study, trial, sweep, train_once)
        except Exception as error:
            if (advice := explained(error)) is None:
                raise
            raise advice from error  # here, since a process keeps to itself what led to an error

    return work


def _try(study: optuna.Study, trial: Trial, sweep: Sweep, run: RunTraining) -> str | None:
    """Run and report a trial; the error, if it had one."""
    try:
        _report(study, trial, _run(trial, sweep, run), sweep)
    except optuna.exceptions.UpdateFinishedTrialError:
        return None  # the lease was lost, and another worker runs it
    except Exception as error:  # whatever it is, other trials may still succeed
        if is_disk_full(error):
            raise  # no other can, and the study itself may have no room to note this one's end
        message = str(error)
        if not isinstance(error, UserError):
            traceback.print_exc()
            message = f"{type(error).__name__}: {error}"
        trial.set_user_attr("error", message[:2000])
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        return message
    return None


def _run(trial: Trial, sweep: Sweep, run: RunTraining) -> list[RunResult]:
    """Train with each seed; what an interrupted attempt has finished is not run again."""
    settings, values = sweep.settings, suggest(sweep.space, trial)
    overrides = (*sweep.overrides, *as_overrides(values))
    trial.set_user_attr("values", values)
    trial.set_user_attr("command", shlex.join(["python", "-m", "redi_lab", *overrides]))
    results = [RunResult(**stored) for stored in trial.user_attrs.get("runs", [])]
    folder = sweep.folder / "trials" / f"{origin(trial):04d}"  # the first attempt's, where an interrupted run continues
    seeds = [f"seed={seed}" for seed in settings.seeds] or [""]  # without any, seeds are what is searched
    for seed in seeds[len(results) :]:
        spec = RunSpec(
            (*overrides, *sweep.local_overrides, *([seed] if seed else [])),
            folder / (seed or "run"),
            settings.metric,
            settings.mode,
            sweep.parent_run_id,
            sweep.tags | {"redi_lab.trial": str(trial.number)},
        )

        def report(value: float, step: int, is_first: bool = seed == seeds[0]) -> bool:
            if not is_first:
                return False  # trials are compared at equal steps of their first seed
            trial.report(value, step)
            return bool(trial.should_prune())

        results.append(run(spec, report))
        trial.set_user_attr("runs", [asdict(result) for result in results])
        if results[-1].stopped_by == "pruner":
            break
    return results


def _report(study: optuna.Study, trial: Trial, results: Sequence[RunResult], sweep: Sweep) -> None:
    collapsed = [result for result in results if result.collapse_step is not None]
    if collapsed:
        first = min(collapsed, key=lambda result: result.collapse_step or 0)
        trial.set_user_attr("collapse_step", first.collapse_step)
        trial.set_user_attr("collapse_reason", first.reason)
    elif results[-1].stopped_by == "pruner":
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        return
    if any(result.value is None and result.collapse_step is None for result in results):
        raise UserError(
            f"sweep.metric={sweep.settings.metric} was never measured; is the callback that measures it on?"
        )
    trial.set_constraint(CONSTRAINT, max(violation(result) for result in results))
    study.tell(trial, reported_value(results, sweep.settings.mode), skip_if_finished=True)


def violation(result: RunResult) -> float:
    """The value of the constraint `collapse`: −1 without one, else the share of training that was missed, in (0, 1]."""
    if result.collapse_step is None:
        return -1.0
    planned = max(result.planned_steps, result.collapse_step, 1)
    return 1 - result.collapse_step / (planned + 1)


def reported_value(results: Sequence[RunResult], mode: str) -> float:
    """Mean over seeds; of a collapsed run its worst measurement, or, without any, the worst that there is."""
    nothing = -math.inf if mode == "max" else math.inf
    values = [r.value if r.collapse_step is None else r.worst for r in results]
    return sum(nothing if v is None or math.isnan(v) else v for v in values) / len(values)
