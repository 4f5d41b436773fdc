"""The study of a sweep: what is searched, how its trials are chosen and ended, and where it is kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import numpy as np
import optuna
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, Trial

from redi_lab.config.schema.sweep import SweepConfig
from redi_lab.errors import UserError
from redi_lab.redaction import redact
from redi_lab.run.study_storage import open_storage, quieten_optuna, study_lock
from redi_lab.verbs.sweep.space import Space, Value, grid, parse_space, sobol

EVALUATED = "eval/pass_at_1"
"""The metric that is not measured during training: the last checkpoint on development problems, evaluated as a final
evaluation would, with its engine, protocol and number of samples."""

Report = Callable[[float, int], bool]
"""From a measurement and its step to whether the run should end."""


@final
@dataclass(frozen=True)
class Sweep:
    """All that a worker needs to know; it travels to worker processes.

    Attributes:
        name: The study's name.
        folder: Where trials and report go.
        settings: The group `sweep`.
        overrides: Those of the training run that all trials share.
        local_overrides: Further ones that change no result: paths of this machine, no final evaluation.
        seed: The sampler's seed.
        parent_run_id: MLflow run under which the trials' runs are nested.
        cluster: Address of a Ray cluster that runs them; None: this machine.
    """

    name: str
    folder: Path
    settings: SweepConfig
    overrides: tuple[str, ...]
    local_overrides: tuple[str, ...] = ()
    seed: int = 0
    parent_run_id: str | None = None
    cluster: str | None = None

    @property
    def space(self) -> Space:
        """What is searched."""
        return parse_space(self.settings.space)

    @property
    def tags(self) -> dict[str, str]:
        """What MLflow runs of the study are found by."""
        return {"redi_lab.study": self.name, "redi_lab.storage": redact(self.settings.storage)}

    def budget(self) -> int | list[dict[str, Value]]:
        """How many trials there are, or their points where those are known beforehand."""
        if self.settings.sampler == "sobol":
            return sobol(self.space, self.settings.num_trials or 0, self.seed)
        return grid(self.space) if self.settings.sampler == "grid" else self.settings.num_trials or 0


@final
@dataclass(frozen=True)
class RunSpec:
    """One training run of a trial.

    Attributes:
        overrides: All that make the run, seed included.
        folder: Its results go here; it does not exist yet.
        metric: What is reported.
        mode: Whether it should be high (max) or low (min).
        parent_run_id: MLflow run to nest it under.
        tags: Tags of its MLflow run.
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
    """The outcome of a training run, as JSON values.

    Attributes:
        value: The last measurement of the metric, or the score of the last checkpoint; None if there was none.
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


RunTraining = Callable[[RunSpec, Report], RunResult]
"""Trains once, and passes each measurement to `report`; tests put something quicker in its place."""


def open_study(sweep: Sweep) -> optuna.Study:
    """The study, created on first use.

    Raises:
        UserError: a study of this name searches something else, or the storage cannot be reached.
    """
    quieten_optuna()
    settings = sweep.settings
    with study_lock(settings.storage):
        study = optuna.create_study(
            study_name=sweep.name,
            storage=open_storage(settings.storage),
            direction="maximize" if settings.mode == "max" else "minimize",
            load_if_exists=True,
            sampler=RandomSampler(),
        )
        _check_definition(study, sweep)
    return study


def _check_definition(study: optuna.Study, sweep: Sweep) -> None:
    """Refuse what may not change while a study lasts; budget, workers and sampler may."""
    settings = sweep.settings
    wanted = {
        "overrides": list(sweep.overrides),
        "space": settings.space,
        "seeds": list(settings.seeds),
        "metric": settings.metric,
        "mode": settings.mode,
    }
    found = study.user_attrs.get("definition")
    if found is None:
        study.set_user_attr("definition", wanted)
        return
    if changed := [key for key in wanted if wanted[key] != found[key]]:
        key = changed[0]
        raise UserError(
            f"study {sweep.name} in {redact(settings.storage)} was begun with {key}={found[key]}, now {key}="
            f"{wanted[key]}; keep it, or start another study with name=NAME"
        )


def make_sampler(sweep: Sweep, trial_number: int) -> BaseSampler:
    """The sampler of one trial, with a separate random stream: no two workers propose the same by accident."""
    settings = sweep.settings
    stream = int(np.random.SeedSequence([sweep.seed, trial_number]).generate_state(1)[0])
    num_startup = max(4, min(10, (settings.num_trials or 0) // 4))
    if settings.sampler == "tpe":
        is_conditional = any(parameter.when for parameter in sweep.space)
        return TPESampler(seed=stream, n_startup_trials=num_startup, group=is_conditional)
    if settings.sampler == "gp":
        return GPSampler(seed=stream, n_startup_trials=num_startup)
    return RandomSampler(seed=stream)  # grid and sobol: every point is planned, and nothing is left to choose


def make_pruner(settings: SweepConfig, study: optuna.Study) -> BasePruner:
    """What ends a trial whose intermediate values are behind; a collapse is handled by its own callback."""
    if settings.pruner == "median":
        return MedianPruner(n_startup_trials=4)
    if settings.pruner == "hyperband":
        # The first rung is the first measurement: rungs between two of them would cut several times for one value.
        steps = (step for trial in study.get_trials(deepcopy=False) for step in trial.intermediate_values if step > 0)
        return HyperbandPruner(min_resource=min(steps, default=1))
    return NopPruner()


def origin(trial: FrozenTrial | Trial) -> int:
    """Number of the first attempt at what this trial tries."""
    return int(trial.user_attrs.get("retry_of", trial.number))
