"""What came of a study's trials: plain records for the report, the plots and the confirmation."""

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


@final
@dataclass(frozen=True)
class TrialView:
    """A finished trial as the report shows it.

    Attributes:
        number: In the study.
        values: By override path.
        outcome: finished, collapsed, pruned or failed.
        value: Mean of the metric over seeds; of a pruned trial the last measurement; None if there is none.
        interval: Of the value, 95 %: over seeds if there are several, else over problems; None if unknown.
        step: At which it collapsed or was pruned.
        reason: In words.
        steps: Optimizer steps taken, over all seeds.
        planned_steps: Those that it would have taken.
        seconds: Wall-clock time of its runs.
        command: That runs it again by hand.
        runs: Details of each seed's run.
    """

    number: int
    values: Mapping[str, Value]
    outcome: str
    value: float | None
    interval: tuple[float, float] | None
    step: int | None
    reason: str | None
    steps: int
    planned_steps: int
    seconds: float
    command: str
    runs: Sequence[Mapping[str, Any]]


@final
@dataclass(frozen=True)
class Budget:
    """Optimizer steps and time of a study.

    Attributes:
        steps: Taken.
        planned_steps: That all its trials would have taken to their ends.
        seconds: Of training and measuring, over all workers.
        saved_seconds: What the steps not taken would have cost at the same pace.
    """

    steps: int
    planned_steps: int
    seconds: float
    saved_seconds: float


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


def budget(trials: Sequence[TrialView]) -> Budget:
    """Add up what trials took and what they were spared."""
    steps, planned = sum(t.steps for t in trials), sum(t.planned_steps for t in trials)
    seconds = sum(t.seconds for t in trials)
    return Budget(steps, planned, seconds, seconds * (planned - steps) / steps if steps else 0.0)


def seed_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval for the mean over seeds; None with fewer than two."""
    if len(values) < 2:
        return None
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    centre = statistics.fmean(values)
    return centre - half, centre + half


def _view(trial: FrozenTrial, num_seeds: int) -> TrialView:
    runs = trial.user_attrs.get("runs", [])
    measured = [run["value"] for run in runs if run["value"] is not None]
    outcome = {TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}.get(trial.state, "finished")
    step = trial.user_attrs.get("collapse_step")
    if outcome == "pruned":
        step = runs[-1]["steps"] if runs else trial.last_step
    elif outcome == "finished" and not is_feasible(trial):
        outcome = "collapsed"
    attributes, last_reason = trial.user_attrs, runs[-1]["reason"] if runs else None
    planned = max((run["planned_steps"] for run in runs), default=0)
    return TrialView(
        number=trial.number,
        values=trial.user_attrs.get("values", {}),
        outcome=outcome,
        value=trial.value,
        interval=_interval(runs, measured),
        step=step,
        reason=next((r for r in (attributes.get("error"), attributes.get("collapse_reason")) if r), last_reason),
        steps=sum(run["steps"] for run in runs),
        planned_steps=planned * num_seeds,
        seconds=sum(run["seconds"] for run in runs),
        command=trial.user_attrs.get("command", ""),
        runs=runs,
    )


def _interval(runs: Sequence[Mapping[str, Any]], measured: Sequence[float]) -> tuple[float, float] | None:
    if len(runs) == 1 and runs[0]["ci_low"] is not None:
        return runs[0]["ci_low"], runs[0]["ci_high"]
    return seed_interval(measured)
