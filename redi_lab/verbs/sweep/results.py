"""What came of a study's trials: plain records for the report, the map and the confirmation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import optuna
from optuna.trial import FrozenTrial, TrialState

from redi_lab.evaluation.metrics import t_quantile
from redi_lab.verbs.sweep.space import Value

_SHOWN = ("folder", "mlflow_run_id", "fingerprint", "commit", "commit_is_dirty")


@final
@dataclass(frozen=True)
class TrialView:
    """A finished trial as page and summary show it.

    Attributes:
        number: In the study.
        values: By override path.
        outcome: finished, collapsed, pruned or failed.
        value: Mean of the metric over seeds; of a pruned trial the last measurement; None if there is none.
        by_seed: Metric of each seed's run, of which the value is the mean; of a collapsed run its worst measurement.
        interval: 95 % interval of the value: over seeds if there are several, else over problems; None if unknown.
        step: At which it collapsed or was pruned.
        reason: In words.
        steps: Optimizer steps taken, over all seeds.
        planned_steps: Those that it would have taken.
        seconds: Wall-clock time of its runs.
        command: That runs it again by hand.
        runs: Folder, MLflow run, fingerprint and commit of each seed's run.
    """

    number: int
    values: Mapping[str, Value]
    outcome: str
    value: float | None
    by_seed: Sequence[float | None]
    interval: tuple[float, float] | None
    step: int | None
    reason: str | None
    steps: int
    planned_steps: int
    seconds: float
    command: str
    runs: Sequence[Mapping[str, Any]]


def is_feasible(trial: FrozenTrial) -> bool:
    """Whether no constraint is violated: the trial did not collapse."""
    return all(value <= 0 for value in trial.constraints.values())


def best_trial(study: optuna.Study) -> FrozenTrial | None:
    """The finished trial with the best value that did not collapse; the earlier one of equals."""
    trials = [t for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)) if is_feasible(t)]
    sign = -1 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1
    return min(trials, key=lambda t: (sign * (t.value or 0.0), t.number), default=None)


def view_trials(study: optuna.Study) -> list[TrialView]:
    """All trials that ended, without attempts that were interrupted and retried."""
    finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    num_seeds = max(len(study.user_attrs["definition"]["seeds"]), 1)
    ended = [trial for trial in finished if trial.state != TrialState.FAIL or "error" in trial.user_attrs]
    return [_view(trial, num_seeds) for trial in ended]


def budget(trials: Sequence[TrialView]) -> dict[str, float]:
    """Optimizer steps and seconds taken, and saved by stopping early (seconds: at the same pace)."""
    steps, planned = sum(t.steps for t in trials), sum(t.planned_steps for t in trials)
    seconds = sum(t.seconds for t in trials)
    saved = seconds * (planned - steps) / steps if steps else 0.0
    return {"steps": steps, "planned_steps": planned, "seconds": seconds, "saved_seconds": saved}


def seed_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval for the mean over seeds; None with fewer than two."""
    if len(values) < 2:
        return None
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    centre = statistics.fmean(values)
    return centre - half, centre + half


def with_interval(name: str, value: float, interval: tuple[float, float] | None) -> dict[str, float]:
    """A metric and, where they are known, the ends of its interval."""
    ends = {} if interval is None else {f"{name}_ci_low": interval[0], f"{name}_ci_high": interval[1]}
    return {name: value, **ends}


def _view(trial: FrozenTrial, num_seeds: int) -> TrialView:
    attributes, runs = trial.user_attrs, trial.user_attrs.get("runs", [])
    outcome = {TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}.get(trial.state, "finished")
    step = attributes.get("collapse_step")
    if outcome == "pruned":
        step = runs[-1]["steps"] if runs else trial.last_step
    elif outcome == "finished" and not is_feasible(trial):
        outcome = "collapsed"
    reasons = (attributes.get("error"), attributes.get("collapse_reason"), runs[-1]["reason"] if runs else None)
    return TrialView(
        number=trial.number,
        values=attributes.get("values", {}),
        outcome=outcome,
        value=trial.value if trial.value is not None and math.isfinite(trial.value) else None,
        by_seed=[run["value"] if run["collapse_step"] is None else run["worst"] for run in runs],
        interval=_interval(runs),
        step=step,
        reason=next(filter(None, reasons), None),
        steps=sum(run["steps"] for run in runs),
        planned_steps=max((run["planned_steps"] for run in runs), default=0) * num_seeds,
        seconds=sum(run["seconds"] for run in runs),
        command=attributes.get("command", ""),
        runs=[{key: run["details"].get(key) for key in _SHOWN} for run in runs],
    )


def _interval(runs: Sequence[Mapping[str, Any]]) -> tuple[float, float] | None:
    if len(runs) == 1 and runs[0]["ci_low"] is not None:
        return runs[0]["ci_low"], runs[0]["ci_high"]
    return seed_interval([run["value"] for run in runs if run["value"] is not None])
