"""The study of a sweep: which samplers and pruners there are, how a trial runs, and what the sampler is told of it.

A collapsed trial is told as COMPLETE with the worst value that it measured, and as violating the constraint `collapse`
by the share of the training that it missed. So TPE ranks it behind every trial that finished or was pruned, an earlier
collapse behind a later one, and the Gaussian process learns both that it is bad and where collapse is likely. The other
ways teach nothing or the wrong thing: FAIL (also what NaN becomes) is ignored by every sampler, PRUNED by the Gaussian
process, and the last value looks good when the alarm comes before the crash.
"""

from __future__ import annotations

import math
import shlex
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol, final

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from redi_lab.config.schema.sweep import SweepConfig
from redi_lab.errors import UserError
from redi_lab.files import is_disk_full
from redi_lab.redaction import redact
from redi_lab.run.study_storage import open_storage, quieten_optuna, study_lock
from redi_lab.verbs.sweep.claims import Claims, origin
from redi_lab.verbs.sweep.space import Space, as_overrides, parse_space, suggest

CONSTRAINT = "collapse"
MAX_FAILURES = 3
"""After as many failing trials in a row a worker gives up: it is not the parameters."""

Report = Callable[[float, int], bool]
"""From a measurement and its step to whether the run should end."""


@final
@dataclass(frozen=True)
class Sweep:
    """All that a worker needs to know; it travels to worker processes.

    Attributes:
        name: Of the study.
        folder: Where trials and report go.
        settings: The group `sweep`.
        overrides: Of the training run that all trials share.
        local_overrides: Further ones that change no result: paths of this machine, no final evaluation.
        seed: Of the sampler.
        parent_run_id: MLflow run under which the trials' runs are nested.
    """

    name: str
    folder: Path
    settings: SweepConfig
    overrides: tuple[str, ...]
    local_overrides: tuple[str, ...] = ()
    seed: int = 0
    parent_run_id: str | None = None

    @property
    def space(self) -> Space:
        """What is searched."""
        return parse_space(self.settings.space)


@final
@dataclass(frozen=True)
class RunSpec:
    """One training run of a trial.

    Attributes:
        overrides: Of the training run, seed included.
        folder: For its results; it does not exist yet.
        metric: What is reported.
        mode: Whether it should be high (max) or low (min).
        parent_run_id: MLflow run to nest it under.
        tags: Of its MLflow run.
    """

    overrides: tuple[str, ...]
    folder: Path
    metric: str
    mode: str
    parent_run_id: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@final
@dataclass(frozen=True)
class RunResult:
    """What a training run came to, as JSON values.

    Attributes:
        value: The last measurement of the metric; None if there was none.
        worst: The measurement furthest from what is wanted; None if there was none.
        steps: Optimizer steps taken.
        planned_steps: Optimizer steps that the training would have had.
        ci_low: Lower end of the value's 95 % interval, where it has one.
        ci_high: Upper end of it.
        stopped_by: "collapse" or "pruner" if training ended early.
        collapse_step: Step at which it collapsed, whether or not that ended it.
        reason: Why it collapsed or was stopped, in words.
        seconds: Wall-clock time.
        details: Run id, commit, fingerprint, frozen configuration, checkpoint, verdicts.
    """

    value: float | None
    worst: float | None
    steps: int
    planned_steps: int
    ci_low: float | None = None
    ci_high: float | None = None
    stopped_by: str | None = None
    collapse_step: int | None = None
    reason: str | None = None
    seconds: float = 0.0
    details: Mapping[str, Any] = field(default_factory=dict)


class RunTraining(Protocol):
    """Trains once; tests put something quicker in its place."""

    def __call__(self, spec: RunSpec, report: Report) -> RunResult:
        """Train, and tell each measurement to `report`."""


def open_study(sweep: Sweep) -> tuple[optuna.Study, BaseStorage]:
    """The study, created on first use, with its storage.

    Raises:
        UserError: a study of this name searches something else, or the storage cannot be reached.
    """
    quieten_optuna()
    settings = sweep.settings
    with study_lock(settings.storage):
        storage = open_storage(settings.storage)
        direction = "maximize" if settings.mode == "max" else "minimize"
        study = optuna.create_study(
            study_name=sweep.name, storage=storage, direction=direction, load_if_exists=True, sampler=RandomSampler()
        )
        _check_definition(study, sweep)
    return study, study._storage


def definition(sweep: Sweep) -> dict[str, Any]:
    """What may not change while a study lasts, as JSON values; budget, workers and sampler may."""
    settings = sweep.settings
    return {
        "overrides": list(sweep.overrides),
        "space": settings.space,
        "seeds": list(settings.seeds),
        "metric": settings.metric,
        "mode": settings.mode,
    }


def make_sampler(settings: SweepConfig, space: Space, seed: int, trial_number: int) -> BaseSampler:
    """The sampler of one trial: its own random stream, so that no two workers propose the same by accident."""
    stream = int(np.random.SeedSequence([seed, trial_number]).generate_state(1)[0])
    num_startup = max(4, min(10, (settings.num_trials or 0) // 4))
    if settings.sampler == "tpe":
        is_conditional = any(parameter.when for parameter in space)
        return TPESampler(seed=stream, n_startup_trials=num_startup, group=is_conditional)
    if settings.sampler == "gp":
        return GPSampler(seed=stream, n_startup_trials=num_startup)
    return RandomSampler(seed=stream)  # grid: every point is planned, and nothing is left to choose


def make_pruner(settings: SweepConfig, study: optuna.Study) -> optuna.pruners.BasePruner:
    """What ends a trial whose intermediate values are behind; a collapse is no matter of comparison."""
    if settings.pruner == "median":
        return optuna.pruners.MedianPruner(n_startup_trials=4)
    if settings.pruner == "hyperband":
        # The first rung is the first measurement: rungs between two of them would cut several times for one value.
        steps = (step for trial in study.get_trials(deepcopy=False) for step in trial.intermediate_values if step > 0)
        return optuna.pruners.HyperbandPruner(min_resource=min(steps, default=1))
    return optuna.pruners.NopPruner()


def work(sweep: Sweep, run: RunTraining, poll_seconds: float = 1.0) -> None:
    """Run trials until none waits and no other worker holds one that it may yet lose.

    Args:
        sweep: the study and how its trials run.
        run: trains once.
        poll_seconds: between two looks at what others hold.

    Raises:
        UserError: trials fail in a row.
    """
    study, storage = open_study(sweep)
    settings, space = sweep.settings, sweep.space
    claims = Claims(study, storage, settings.storage, settings.lease_seconds, settings.max_retries)
    failures: list[str] = []
    while len(failures) < MAX_FAILURES:
        claimed = claims.claim()
        if claimed is None:
            if not claims.is_any_running():
                return
            time.sleep(poll_seconds)
            continue
        study.sampler = make_sampler(settings, space, sweep.seed, claimed.number)
        study.pruner = make_pruner(settings, study)
        with claims.held(claimed):
            error = _try(study, claimed, sweep, space, run)
        failures = [] if error is None else [*failures, error]
    raise UserError(f"{MAX_FAILURES} trials failed in a row, the last with: {failures[-1]}")


def _try(study: optuna.Study, claimed: FrozenTrial, sweep: Sweep, space: Space, run: RunTraining) -> str | None:
    """Run and tell a trial; the error, if it had one."""
    trial = Trial(study, claimed._trial_id)
    try:
        results = _run(trial, sweep, space, run)
        _tell(study, trial, results, sweep.settings)
    except optuna.exceptions.UpdateFinishedTrialError:
        return None  # the lease was lost, and another worker runs it
    except Exception as error:  # whatever it is, the other trials may still do
        if is_disk_full(error):
            raise  # no other can, and the study itself may have no room to note this one's end
        message = f"{type(error).__name__}: {error}" if not isinstance(error, UserError) else str(error)
        if not isinstance(error, UserError):
            traceback.print_exc()
        trial.set_user_attr("error", message[:2000])
        study.tell(trial, state=TrialState.FAIL, skip_if_finished=True)
        return message
    return None


def _run(trial: Trial, sweep: Sweep, space: Space, run: RunTraining) -> list[RunResult]:
    """Train with each seed; what an interrupted attempt has finished is not run again."""
    values = suggest(space, trial)
    overrides = (*sweep.overrides, *as_overrides(values))
    trial.set_user_attr("values", values)
    trial.set_user_attr("command", shlex.join(["python", "-m", "redi_lab", *overrides]))
    results = [RunResult(**stored) for stored in trial.user_attrs.get("runs", [])]
    # The folder is that of the first attempt, where an interrupted run can go on. Without seeds the space says which.
    folder = sweep.folder / "trials" / f"{origin(trial):04d}"
    for number, seed in enumerate(sweep.settings.seeds or [None]):
        if number < len(results):
            continue
        own = [] if seed is None else [f"seed={seed}"]
        spec = RunSpec(
            (*overrides, *sweep.local_overrides, *own),
            folder / (own[0] if own else "run"),
            sweep.settings.metric,
            sweep.settings.mode,
            sweep.parent_run_id,
            {
                "redi_lab.study": sweep.name,
                "redi_lab.trial": str(trial.number),
                "redi_lab.storage": redact(sweep.settings.storage),
            },
        )
        results.append(run(spec, _reporter(trial) if number == 0 else _ignore))
        trial.set_user_attr("runs", [asdict(result) for result in results])
        if results[-1].stopped_by == "pruner":
            break
    return results


def _reporter(trial: Trial) -> Report:
    def report(value: float, step: int) -> bool:
        trial.report(value, step)
        return bool(trial.should_prune())

    return report


def _ignore(value: float, step: int) -> bool:
    """Of the further seeds: trials are compared at equal steps of their first seed."""
    return False


def _tell(study: optuna.Study, trial: Trial, results: Sequence[RunResult], settings: SweepConfig) -> None:
    collapsed = [result for result in results if result.collapse_step is not None]
    if collapsed:
        first = min(collapsed, key=lambda result: result.collapse_step or 0)
        trial.set_user_attr("collapse_step", first.collapse_step)
        trial.set_user_attr("collapse_reason", first.reason)
    elif results[-1].stopped_by == "pruner":
        study.tell(trial, state=TrialState.PRUNED, skip_if_finished=True)
        return
    missing = [result for result in results if result.value is None and result.collapse_step is None]
    if missing:
        raise UserError(f"sweep.metric={settings.metric} was never measured; is what measures it switched on?")
    trial.set_constraint(CONSTRAINT, max(violation(result) for result in results))
    study.tell(trial, told_value(results, settings.mode), skip_if_finished=True)


def violation(result: RunResult) -> float:
    """Of the constraint `collapse`: −1 without one, else the share of training that was missed, in (0, 1]."""
    if result.collapse_step is None:
        return -1.0
    planned = max(result.planned_steps, result.collapse_step, 1)
    return 1 - result.collapse_step / (planned + 1)


def told_value(results: Sequence[RunResult], mode: str) -> float:
    """Mean over seeds; of a collapsed run its worst measurement, or, without any, the worst that there is."""
    nothing = -math.inf if mode == "max" else math.inf
    values = [r.value if r.collapse_step is None else r.worst for r in results]
    return sum(nothing if v is None or math.isnan(v) else v for v in values) / len(values)


def _check_definition(study: optuna.Study, sweep: Sweep) -> None:
    wanted, found = definition(sweep), study.user_attrs.get("definition")
    if found is None:
        study.set_user_attr("definition", wanted)
        return
    changed = [key for key in wanted if wanted[key] != found[key]]
    if changed:
        key = changed[0]
        raise UserError(
            f"study {sweep.name} in {redact(sweep.settings.storage)} was begun with other {key}: {found[key]}, now"
            f" {wanted[key]}; go on with the same, or name another study with name=NAME"
        )
