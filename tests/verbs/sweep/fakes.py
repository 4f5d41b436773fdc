"""Trainings that take no time, for sweeps: plain functions of a module, so that worker processes find them.

`train` learns as fast as α and the learning rate say, and collapses beyond a ridge; just before, it looks best.
"""

from __future__ import annotations

import math
import os
import sys
import time
from concurrent.futures import Future
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, final

from omegaconf import OmegaConf

from redi_lab.config.compose import load_config
from redi_lab.config.schema.sweep import SweepConfig
from redi_lab.errors import UserError
from redi_lab.verbs.sweep.study import Report, RunResult, RunSpec, RunTraining, Sweep, open_study
from redi_lab.verbs.sweep.trial import make_work
from redi_lab.verbs.sweep.workers import run_trials

STEPS = 100
SPACE: dict[str, Any] = {
    "loss.alpha": {"low": 0.0, "high": 1.0, "step": 0.1},
    "optimizer.lr": {"low": 5.0e-5, "high": 2.0e-3, "log": True},
}


@final
class Here:
    """A worker that is this very process."""

    def __init__(self, sweep: Sweep, run: RunTraining) -> None:
        self._work = make_work(sweep, run)
        self.ready: Future[Any] = Future()
        self.ready.set_result(None)

    def submit(self, item: int) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(self._work(item))
        except BaseException as error:
            future.set_exception(error)
        return future

    def plain(self, error: BaseException) -> BaseException:
        return error

    def close(self) -> None:
        """Nothing is under way."""


def work(sweep: Sweep, run: RunTraining) -> None:
    """Run the trials of a study one after the other in this process."""
    run_trials(sweep, open_study(sweep), lambda _: Here(sweep, run))


def settings_of(spec: RunSpec) -> dict[str, str]:
    """The overrides as a mapping; later ones win."""
    return dict(override.lstrip("+").split("=", 1) for override in spec.overrides)


def accuracy(alpha: float, lr: float, step: int) -> float | None:
    """At a step; None once it has collapsed."""
    strength = alpha * lr / 3e-4
    if strength > 1 and step > 40 / strength:
        return None
    return 0.6 + 0.35 * (1 - math.exp(-step / STEPS * (lr / 2e-4 + alpha))) + (0.1 if strength > 1 else 0.0)


def train(spec: RunSpec, report: Report) -> RunResult:
    """Measures each tenth of the training."""
    told = settings_of(spec)
    alpha, lr = float(told.get("loss.alpha", 0.8)), float(told.get("optimizer.lr", 2e-4))
    details = {"commit": "abc", "mlflow_run_id": f"run of {spec.folder.name}", "folder": str(spec.folder)}
    value = 0.6
    for step in range(0, STEPS + 1, STEPS // 10):
        now = accuracy(alpha, lr, step)
        if now is None:
            return RunResult(
                value, 0.6, step, STEPS, stopped_by="collapse", collapse_step=step, reason="both fell", details=details
            )
        value = now
        if report(value, step):
            return RunResult(value, 0.6, step, STEPS, stopped_by="pruner", reason="behind", details=details)
    right = [round(4 * value)] * 20
    return RunResult(
        value,
        0.6,
        STEPS,
        STEPS,
        value - 0.1,
        value + 0.1,
        seconds=1.0,
        details=details | {"right": right, "num_samples": 4},
    )


def fail(spec: RunSpec, report: Report) -> RunResult:
    """A mistake that every trial shares."""
    raise UserError("data.path=nowhere: no such file")


def die_once(spec: RunSpec, report: Report) -> RunResult:
    """The first process that trains here is gone without a word."""
    mark = spec.folder.parents[2] / "died"
    if not mark.exists():
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        os._exit(137)
    return train(spec, report)


def begin_and_hang(spec: RunSpec, report: Report) -> RunResult:
    """Says that it began, and never ends."""
    (spec.folder.parents[2] / "began").touch()
    time.sleep(600)
    raise AssertionError("nobody ended it")


def log_slowly(spec: RunSpec, report: Report) -> RunResult:
    """As `log_and_train`, for long enough to be killed in between."""
    return log_and_train(spec, report, 2.0)


def log_and_train(spec: RunSpec, report: Report, seconds: float = 0.1) -> RunResult:
    """Keeps a log of what began and what ended, and takes its time in between."""
    log = spec.folder.parents[2] / "log"
    log.parent.mkdir(parents=True, exist_ok=True)
    told = settings_of(spec)
    line = f"{spec.folder.parent.name} {told['loss.alpha']} {told['optimizer.lr']} {os.getpid()}\n"
    with log.open("a") as file:
        file.write(f"began {line}")
    report(0.5, 0)
    time.sleep(seconds)
    result = train(spec, lambda value, step: False)
    with log.open("a") as file:
        file.write(f"ended {line}")
    return result


def make_sweep(folder: Path, storage: str = "journal", **settings: Any) -> Sweep:
    """A sweep over `SPACE` that is kept in the folder."""
    own: dict[str, Any] = {"space": SPACE, "num_trials": 6, "storage": f"{storage}:///{folder / 'study'}"}
    return Sweep(
        "fake", folder, SweepConfig(**{**default_settings(), **own, **settings}), ("+experiment=demo",), seed=3
    )


@cache
def default_settings() -> dict[str, Any]:
    """Of the group `sweep`."""
    settings: Any = OmegaConf.to_container(load_config("sweep", ["name=fake"]).sweep)
    return dict(settings)


def changed(sweep: Sweep, **settings: Any) -> Sweep:
    """The same sweep with other settings."""
    return replace(sweep, settings=SweepConfig(**{**vars(sweep.settings), **settings}))


if __name__ == "__main__":  # a worker that hangs in its third trial, to be killed: FOLDER STORAGE

    def _hang(value: float, step: int) -> bool:
        time.sleep(600)
        return False

    def _train(spec: RunSpec, report: Report) -> RunResult:
        log = Path(sys.argv[1]) / "log"
        is_third = log.exists() and log.read_text().count("ended") == 2
        return log_and_train(spec, _hang if is_third else report)

    work(make_sweep(Path(sys.argv[1]), sys.argv[2]), _train)
