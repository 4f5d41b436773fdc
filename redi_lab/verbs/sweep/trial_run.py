"""One training run of a sweep, in the process of its worker: what `python -m redi_lab` does, quietly."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redi_lab.callbacks.pruning import PruningCallback
from redi_lab.config.compose import load_config
from redi_lab.evaluation.results import load_result
from redi_lab.run.record import SUMMARY
from redi_lab.tracking.journal import read_curves
from redi_lab.tracking.state import METRICS_FILE
from redi_lab.verbs.sweep.space import as_overrides
from redi_lab.verbs.sweep.study import Report, RunResult, RunSpec
from redi_lab.verbs.train.command import run_training

SCREEN = "screen.log"
_DETAILS = ("mlflow_run_id", "commit", "commit_is_dirty", "fingerprint", "checkpoint", "metrics", "config")


def train(spec: RunSpec, report: Report) -> RunResult:
    """Train, and say what came of it; what would be on the screen goes to the run's folder."""
    overrides = [*spec.overrides, *as_overrides({"paths.output_dir": str(spec.folder)})]
    config = load_config("train", overrides)
    callback = PruningCallback(spec.metric, report)
    _send_screen_to(spec.folder / SCREEN)
    run_training(config, overrides, [callback], spec.parent_run_id, spec.tags)
    summary = json.loads((spec.folder / SUMMARY).read_text(encoding="utf-8"))
    stopped, measured = summary["stopped"] or {}, callback.measurements
    collapse_step, reason = _collapse(summary, callback)
    curves = read_curves(spec.folder / METRICS_FILE)
    low, high = (curves.get(f"{spec.metric}_{end}") for end in ("ci_low", "ci_high"))
    return RunResult(
        value=measured[max(measured)] if measured else None,
        worst=(min if spec.mode == "max" else max)(measured.values(), default=None),
        ci_low=low and low.values[-1],
        ci_high=high and high.values[-1],
        steps=callback.last_step,
        planned_steps=callback.planned_steps,
        stopped_by=stopped.get("by"),
        collapse_step=collapse_step,
        reason=reason or stopped.get("reason"),
        seconds=round(summary["seconds"], 1),
        details=_details(summary, spec.folder, Path(config.paths.cache_dir)),
    )


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
    details = {"folder": str(folder), **{key: summary[key] for key in _DETAILS}}
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


def _send_screen_to(path: Path) -> None:
    """Send what this process writes to the screen from now on, also by libraries and child processes, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
