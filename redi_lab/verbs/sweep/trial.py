"""Runs one trial after the other, and reports each to Optuna so that the sampler learns from collapses.

A collapsed trial is reported as COMPLETE with the worst value that it measured, and as violating the constraint
`collapse` by the share of the training that it missed. So TPE ranks it behind every trial that finished or was pruned,
an earlier collapse behind a later one, and the Gaussian process learns both that it is bad and where collapse is
likely. The other ways teach nothing or the wrong thing: FAIL (also what NaN becomes) is ignored by every sampler,
PRUNED by the Gaussian process, and the last value looks good when the alarm comes before the crash.
"""

from __future__ import annotations

import json
import math
import shlex
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import Trial, TrialState

from redi_lab.config.compose import load_config
from redi_lab.errors import UserError
from redi_lab.evaluation.results import load_result
from redi_lab.evaluation.scoring import verdicts_of
from redi_lab.files import explained, is_disk_full, naming
from redi_lab.run.record import SUMMARY
from redi_lab.run.screen import send_screen_to
from redi_lab.tracking.journal import read_curves
from redi_lab.tracking.state import METRICS_FILE
from redi_lab.verbs.sweep.space import as_overrides, suggest
from redi_lab.verbs.sweep.study import (
    EVALUATED,
    Report,
    RunResult,
    RunSpec,
    RunTraining,
    Sweep,
    make_pruner,
    make_sampler,
    open_study,
    origin,
)

CONSTRAINT = "collapse"
_DETAILS = ("mlflow_run_id", "commit", "commit_is_dirty", "fingerprint", "checkpoint", "metrics", "config")


def make_work(sweep: Sweep, run: RunTraining | None) -> Callable[[int], str | None]:
    """What a worker does: run the trial of an id, which it holds, and report it; the error, if it had one.

    Args:
        sweep: the study and how its trials run.
        run: trains once; None: as the verb train does.
    """
    study, train_once = open_study(sweep), run or train

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


def train(spec: RunSpec, report: Report) -> RunResult:
    """Train as `python -m redi_lab` does, and say what came of it; its screen is a file in the run's folder."""
    from redi_lab.callbacks.pruning import PruningCallback  # Lightning and torch, for worker processes alone
    from redi_lab.verbs.train.command import run_training

    overrides = [*spec.overrides, *as_overrides({"paths.output_dir": str(spec.folder)})]
    config = load_config("train", overrides)
    is_evaluated = spec.metric == EVALUATED
    callback = PruningCallback("val/pass_at_1" if is_evaluated else spec.metric, report)
    send_screen_to(spec.folder / "screen.log")
    if not (spec.folder / SUMMARY).exists():  # else the worker was killed before it could report this run
        run_training(config, overrides, [callback], spec.parent_run_id, spec.tags)
    summary = json.loads((spec.folder / SUMMARY).read_text(encoding="utf-8"))
    curves = read_curves(spec.folder / METRICS_FILE)  # which hold the final evaluation, too
    stopped, measured = summary["stopped"] or {}, callback.measurements
    # Killed between its last step and its end, a run goes on without having called back.
    losses, found = curves.get("train/loss"), curves.get(spec.metric)
    steps = callback.last_step or (losses.steps[-1] + 1 if losses else 0)
    if found is not None and (is_evaluated or not measured):
        measured = measured | dict(zip(found.steps, found.values, strict=True))
    collapse_step, reason = _collapse(summary, spec.metric, measured)
    low, high = (curves.get(f"{spec.metric}_{end}") for end in ("ci_low", "ci_high"))
    return RunResult(
        value=measured[max(measured)] if measured else None,
        worst=(min if spec.mode == "max" else max)(measured.values(), default=None),
        ci_low=low and low.values[-1],
        ci_high=high and high.values[-1],
        steps=steps,
        planned_steps=max(callback.planned_steps, steps),
        stopped_by=stopped.get("by"),
        collapse_step=collapse_step,
        reason=reason or stopped.get("reason"),
        seconds=round(summary["seconds"], 1),
        details=_details(summary, spec.folder, Path(config.paths.cache_dir)),
    )


def _collapse(summary: Mapping[str, Any], metric: str, measured: Mapping[int, float]) -> tuple[int | None, str | None]:
    """Step and reason, whether the collapse ended the run, was only noticed, or shows in the metric itself."""
    stopped, noticed = summary["stopped"] or {}, summary.get("collapse") or {}
    if stopped.get("by") == "collapse":
        return stopped["step"], stopped["reason"]
    if noticed.get("state") == "collapsed":
        return noticed["step"], noticed["reason"]
    lost = [step for step, value in measured.items() if not math.isfinite(value)]
    return (lost[0], f"{metric} is {measured[lost[0]]}") if lost else (None, None)


def _details(summary: Mapping[str, Any], folder: Path, cache_dir: Path) -> dict[str, Any]:
    details = {"folder": str(folder), **{key: summary[key] for key in _DETAILS}}
    evaluation = summary["evaluation"]
    result = None if evaluation is None else load_result(cache_dir / "evaluations", evaluation["key"])
    if result is None:
        return details
    verdicts = verdicts_of(result)
    details["right"] = verdicts.sum(axis=1).tolist()  # of each problem, how many samples
    details["benchmark_digest"], details["num_samples"] = result.benchmark_digest, verdicts.shape[1]
    return details
