"""`python -m redi_lab sweep +sweeps=NAME`: an Optuna study over training runs.

A trial is the command `python -m redi_lab OVERRIDES VALUES seed=S`. The study is kept in a storage that any number of
workers share; killed at any moment, the same command goes on with it. Results: a page with the map of α and learning
rate, the command of the best configuration, and, on fresh seeds, whether it is better indeed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import filelock
import optuna
from omegaconf import DictConfig, OmegaConf

from redi_lab.config.compose import CONFIG_DIR, load_config, metric_names
from redi_lab.config.schema.sweep import SweepConfig
from redi_lab.errors import UserError, interruptible
from redi_lab.files import naming
from redi_lab.redaction import redact, redacted
from redi_lab.run.preflight import check_adapters, check_hub
from redi_lab.run.study_storage import check_storage, study_lock
from redi_lab.verbs.sweep.confirm import Confirmation, confirm
from redi_lab.verbs.sweep.results import best_trial, view_trials, with_interval
from redi_lab.verbs.sweep.space import Space, check_space, grid, parse_space
from redi_lab.verbs.sweep.study import EVALUATED, Sweep, open_study
from redi_lab.verbs.sweep.workers import Claims, run_workers

_OWN = ("sweeps", "sweep", "name", "seed", "launcher")
_SHARED = ("paths", "logger", "debug")
_NO_FINAL_EVALUATION = "eval.benchmark=null"
_ON_DEVELOPMENT = ("eval.benchmark=development", "eval.name=development")


def run_sweep(arguments: Sequence[str]) -> Path:
    """Run a study, or go on with it.

    Args:
        arguments: overrides of the sweep (sweep.*, name, seed, +sweeps=NAME), of sweep and trials (paths, logger,
            debug), and of the training run that all trials share (everything else).

    Returns:
        The study's folder.

    Raises:
        UserError: something that a user can mend, before any training; or trials that fail one after the other.
        RunInterruptedError: SIGTERM or SIGINT, while trials run as while the winner is confirmed.
    """
    config, sweep = compose_sweep(arguments)
    shared = [*sweep.overrides, *sweep.local_overrides]
    base = load_config("train", shared)
    check_adapters(base)
    check_hub(base, shared)
    with naming(sweep.folder):
        sweep.folder.mkdir(parents=True, exist_ok=True)
        study = open_study(sweep)
        Claims(study, sweep.settings).plan(sweep.budget())
        with interruptible("give the same command again: it goes on with the study"):
            sweep = replace(sweep, parent_run_id=_open_parent_run(config, sweep, study))
            run_workers(sweep, study)
            winner, confirmation = best_trial(study), None
            if winner is not None and sweep.settings.confirm_seeds:
                confirmation = confirm(for_confirmation(sweep), winner)
        _report(config, sweep, study, confirmation)
    return sweep.folder


def for_confirmation(sweep: Sweep) -> Sweep:
    """The sweep with the final evaluation that its trials do without."""
    trials_own = (_NO_FINAL_EVALUATION, *_ON_DEVELOPMENT)
    return replace(sweep, local_overrides=tuple(o for o in sweep.local_overrides if o not in trials_own))


def compose_sweep(arguments: Sequence[str]) -> tuple[DictConfig, Sweep]:
    """The sweep's configuration and what it says, checked to the ends of the search space.

    Raises:
        UserError: one line that names the key, the value and what is allowed.
    """
    own = [argument for argument in arguments if _root(argument) in _OWN]
    shared = [argument for argument in arguments if _root(argument) in _SHARED]
    training = [argument for argument in arguments if _root(argument) not in (*_OWN, *_SHARED)]
    config = _load(own, shared)
    plain: Any = OmegaConf.to_container(config.sweep)
    # A variable that the study's YAML interpolates stays one: commands of trials are recorded.
    settings = SweepConfig(**{**plain, "overrides": redacted(plain["overrides"])})
    check_storage(settings.storage)
    space = parse_space(settings.space)
    overrides = (*settings.overrides, *training)
    for_trials = [argument for argument in shared if not argument.startswith("paths.output_dir=")]
    base = load_config("train", [*overrides, *for_trials])
    _check_settings(settings, space, base)
    if base.callbacks.get("collapse") and settings.pruner != "none":
        for_trials.append("callbacks.collapse.action=stop")
    local = (*for_trials, *(_ON_DEVELOPMENT if settings.metric == EVALUATED else (_NO_FINAL_EVALUATION,)))
    check_space(space, lambda values: load_config("train", [*overrides, *local, *values]))
    folder = Path(config.paths.output_dir).absolute()
    return config, Sweep(config.name, folder, settings, overrides, local, config.seed, cluster=config.launcher.address)


def _load(own: Sequence[str], shared: Sequence[str]) -> DictConfig:
    """Compose; studies are found in the sweeps folders of the working directory and of the lab."""
    if not any(_root(argument) in ("sweeps", "name") for argument in own):
        raise UserError(f"sweep: name a study, +sweeps=NAME with one of {', '.join(sweep_names())}, or name=NAME")
    search = ",".join(f"'file://{folder}'" for folder in _search_path())
    chosen = next((a.partition("=")[2] for a in own if _root(a) == "sweeps"), None)
    if chosen is not None and chosen not in sweep_names():
        raise UserError(f"sweeps={chosen}: no such study; choose one of {', '.join(sweep_names())}")
    return load_config("sweep", [*own, *shared, f"hydra.searchpath=[{search}]"])


def sweep_names() -> list[str]:
    """The studies that `+sweeps=` can name."""
    return sorted({path.stem for folder in _search_path() for path in (folder / "sweeps").glob("*.yaml")})


def _search_path() -> list[Path]:
    return list(dict.fromkeys([Path.cwd(), CONFIG_DIR.resolve().parent]))


def _root(argument: str) -> str:
    return argument.lstrip("+~").partition("=")[0].partition(".")[0]


def _check_settings(settings: SweepConfig, space: Space, base: DictConfig) -> None:
    size = len(grid(space)) if settings.sampler == "grid" else None
    if size is not None and settings.num_trials not in (None, size):
        raise UserError(
            f"sweep.num_trials={settings.num_trials}: the grid has {size} points and all are tried; set"
            " sweep.num_trials=null"
        )
    if size is None and settings.num_trials is None:
        raise UserError("sweep.num_trials=null: only sweep.sampler=grid knows when it is done; give a number")
    if settings.sampler == "gp" and any(parameter.when for parameter in space):
        raise UserError("sweep.sampler=gp: it cannot search parameters with conditions (when); choose tpe or random")
    if not settings.seeds:
        raise UserError("sweep.seeds=[]: name at least one seed")
    if any(parameter.path == "seed" for parameter in space):
        raise UserError("sweep.space.seed: seeds are not searched; a trial averages over sweep.seeds")
    if seen := sorted(set(settings.seeds) & set(settings.confirm_seeds)):
        raise UserError(f"sweep.confirm_seeds: {seen[0]} is one of sweep.seeds; a confirmation needs fresh ones")
    if settings.confirm_seeds and base.eval.benchmark is None:
        raise UserError("sweep.confirm_seeds needs a final evaluation (eval=...), which eval=none switches off")
    measured = [name for name in metric_names(base) if name.startswith("val/")]
    measured += [EVALUATED] if base.data.num_development else []
    if settings.metric not in (*measured, *metric_names(base)):
        raise UserError(
            f"sweep.metric={settings.metric}: these runs do not measure it; choose one of"
            f" {', '.join(measured) or 'val/... and eval/..., which need data.num_development above 0'}"
        )


def _open_parent_run(config: DictConfig, sweep: Sweep, study: optuna.Study) -> str | None:
    """The MLflow run of the study: made by the first command, found by the others; None where there is no store."""
    from redi_lab.run.record import make_logger, quieten_libraries

    quieten_libraries()
    with study_lock(sweep.settings.storage):
        if _is_elsewhere(sweep, study):
            return str(study.user_attrs["mlflow_run_id"])
        logger = make_logger(_publishable(config), sweep.folder, None, sweep.tags)
        run_id: str | None = logger.version
        study.set_user_attr("mlflow_run_id", run_id)
        logger.finalize("running")
    return run_id


def _report(config: DictConfig, sweep: Sweep, study: optuna.Study, confirmation: Confirmation | None) -> None:
    """Write page, plots and summary, and put them into MLflow where the study's run is this folder's."""
    from redi_lab.run.record import make_logger, write_summary
    from redi_lab.verbs.sweep.report import conclusions, summarise, write_report

    public = _publishable(config)
    with filelock.FileLock(sweep.folder / ".report.lock"):
        files = write_report(sweep, study, confirmation)
        print(*conclusions(sweep, study, confirmation), f"Page:       {files[-1]}", sep="\n")
        content = summarise(sweep, study, confirmation)
        files.append(write_summary(sweep.folder, public, content))
        if _is_elsewhere(sweep, study):
            return
        logger = make_logger(
            public, sweep.folder, None, sweep.tags | {"redi_lab.best_trial": str(content["best_trial"])}
        )
        for file in files:
            logger.log_artifact(file)
        logger.log_metrics(content["metrics"], step=0)
        for trial in view_trials(study):
            if trial.value is not None:
                logger.log_metrics(with_interval("trial/value", trial.value, trial.interval), step=trial.number)
        logger.finalize("success")


def _is_elsewhere(sweep: Sweep, study: optuna.Study) -> bool:
    """Whether another machine made the study's MLflow run."""
    from redi_lab.tracking.state import STATE_FILE

    return study.user_attrs.get("mlflow_run_id") is not None and not (sweep.folder / STATE_FILE).exists()


def _publishable(config: DictConfig) -> DictConfig:
    """Without the password of the storage."""
    public = config.copy()
    public.sweep.storage = redact(config.sweep.storage)
    return public
