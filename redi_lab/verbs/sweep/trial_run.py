"""One training run of a sweep, in the process of its worker: what `python -m redi_lab` does, quietly."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redi_lab.callbacks.pruning import PruningCallback
from redi_lab.config.compose import load_config
from redi_lab.config.inheritance import earlier_overrides
from redi_lab.evaluation.results import load_result
from redi_lab.run.record import SUMMARY
from redi_lab.run.stages import StageCache, resolve_chain
from redi_lab.tracking.journal import read_curves
from redi_lab.tracking.state import METRICS_FILE
from redi_lab.verbs.sweep.space import as_overrides
from redi_lab.verbs.sweep.study import Report, RunResult, RunSpec
from redi_lab.verbs.train.command import run_training

SCREEN = "screen.log"


def train(spec: RunSpec, report: Report) -> RunResult:
    """Train, and say what came of it; what would be on the screen goes to the run's folder."""
    began = time.time()
    overrides = [*spec.overrides, *as_overrides({"paths.output_dir": str(spec.folder)})]
    config = load_config("train", overrides)
    callback = PruningCallback(spec.metric, report)
    with _screen_to(spec.folder / SCREEN):
        run_training(config, overrides, [callback], spec.parent_run_id, spec.tags)
    summary = json.loads((spec.folder / SUMMARY).read_text(encoding="utf-8"))
    stopped = summary["stopped"] or {}
    collapse_step, reason = _collapse(summary, callback)
    low, high = _interval(spec)
    return RunResult(
        value=callback.measurements[max(callback.measurements)] if callback.measurements else None,
        worst=(min if spec.mode == "max" else max)(callback.measurements.values(), default=None),
        ci_low=low,
        ci_high=high,
        steps=callback.last_step,
        planned_steps=callback.planned_steps,
        stopped_by=stopped.get("by"),
        collapse_step=collapse_step,
        reason=reason or stopped.get("reason"),
        seconds=round(time.time() - began, 1),
        details=_details(summary, spec.folder, Path(config.paths.cache_dir)),
    )


def train_start(overrides: list[str], screen: Path) -> None:
    """Train what a run starts from, unless it exists: once for all trials, and before them.

    Args:
        overrides: of the run.
        screen: file for what would be on the screen.
    """
    config = load_config("train", overrides)
    chain = resolve_chain(config, overrides)
    if len(chain) < 2:
        return
    stages, fingerprint = StageCache(Path(config.paths.cache_dir)), chain[-2].fingerprint
    with stages.place_for(fingerprint) as folder:
        if stages.find(fingerprint) is not None:
            return
        earlier = [*earlier_overrides(config, overrides), "eval=none", *as_overrides({"paths.output_dir": str(folder)})]
        with _screen_to(screen):
            run_training(load_config("train", earlier), earlier)


def _interval(spec: RunSpec) -> tuple[float | None, float | None]:
    """The last measurement's 95 % interval over problems, which accuracy has."""
    curves = read_curves(spec.folder / METRICS_FILE)
    ends = (curves.get(f"{spec.metric}_{end}") for end in ("ci_low", "ci_high"))
    low, high = (None if curve is None else curve.values[-1] for curve in ends)
    return low, high


def _collapse(summary: Mapping[str, Any], callback: PruningCallback) -> tuple[int | None, str | None]:
    """Step and reason, whether the collapse ended the run, was only noticed, or shows in the metric itself."""
    stopped, noticed = summary["stopped"] or {}, summary.get("collapse") or {}
    if stopped.get("by") == "collapse":
        return stopped["step"], stopped["reason"]
    if noticed.get("state") == "collapsed":
        return noticed["step"], noticed["reason"]
    lost = [step for step, value in callback.measurements.items() if not math.isfinite(value)]
    return (lost[0], f"{callback.metric} is {callback.measurements[lost[0]]}") if lost else (None, None)


def _details(summary: Mapping[str, Any], folder: Path, cache_dir: Path) -> dict[str, Any]:
    kept = ("mlflow_run_id", "commit", "commit_is_dirty", "fingerprint", "checkpoint", "metrics", "config")
    details = {"folder": str(folder), **{key: summary[key] for key in kept}}
    evaluation = summary["evaluation"]
    result = None if evaluation is None else load_result(cache_dir / "evaluations", evaluation["key"])
    if result is not None:
        right: dict[str, int] = {}
        for row in result.rows:
            right[row.id] = right.get(row.id, 0) + (row.verdict == "right")
        details["right"] = list(right.values())  # of each problem, how many samples
        details["benchmark_digest"] = result.benchmark_digest
        details["num_samples"] = int(result.metrics["num_samples"])
    return details


@contextmanager
def _screen_to(path: Path) -> Iterator[None]:
    """Send what is written to the screen, also by libraries and child processes, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    streams = (sys.stdout, sys.stderr)
    _flush(streams)
    saved = [os.dup(number) for number in (1, 2)]
    with path.open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        _flush(streams)
        for number, copy in zip((1, 2), saved, strict=True):
            os.dup2(copy, number)
            os.close(copy)


def _flush(streams: tuple[Any, ...]) -> None:
    for stream in streams:
        stream.flush()
