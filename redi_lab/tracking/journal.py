"""The primary record of a run: `metrics.jsonl`, one JSON object a line, written before anything else sees a metric.

    journal = MetricsJournal(output_dir / "metrics.jsonl")
    journal.append({"train/loss": 0.7}, step=3)  # {"step": 3, "time": 1700000000.123, "train/loss": 0.7}
    loss = read_curves(output_dir / "metrics.jsonl")["train/loss"]

Every line is strict JSON: values that JSON has no number for are the strings "NaN", "Infinity" and "-Infinity".
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import SupportsFloat, final

from redi_lab.errors import UserError

_LOG = logging.getLogger(__name__)
_CLOCKED = "_per_second"  # what ends in this measures the machine: a repeated step differs in it


@final
@dataclass(frozen=True)
class Record:
    """One line of a journal.

    Attributes:
        step: Optimizer step.
        time: Seconds since the epoch, to the millisecond (MLflow's resolution).
        metrics: Metric name to value; NaN and infinities are allowed.
        end: Byte offset just behind the line, from which reading can go on.
    """

    step: int
    time: float
    metrics: dict[str, float]
    end: int


@final
@dataclass
class Curve:
    """One metric against the optimizer step, steps ascending and unique."""

    steps: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


@final
class MetricsJournal:
    """Appends metrics to a JSON-lines file; each line has reached the operating system when `append` returns.

    A process killed in the middle of a line leaves a torn one, which is cut off (with a warning) when the file is
    opened again. A training that resumes repeats the steps behind its state: lines that say the same as before are not
    written twice, and one that says something else is reported.

    Args:
        path: the file, which is created if absent, and appended to otherwise; its folder exists.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _cut_torn_tail(path)
        self._recorded: dict[int, dict[str, float]] = {}
        for record in read_records(path) if path.exists() else ():
            self._recorded.setdefault(record.step, {}).update(record.metrics)
        self._has_warned = False
        self._file = path.open("a", encoding="utf-8")

    def append(self, metrics: Mapping[str, SupportsFloat], step: int) -> None:
        """Write one line.

        Args:
            metrics: metric name to value (numbers or one-element tensors).
            step: optimizer step.

        Raises:
            ValueError: a metric is named "step" or "time", the keys of the line itself.
        """
        values = {name: float(value) for name, value in metrics.items()}
        if reserved := values.keys() & {"step", "time"}:
            raise ValueError(f"a metric cannot be named {reserved.pop()!r}: {self.path.name} uses that key; rename it")
        if not self._is_recorded(values, int(step)):
            line = {"step": int(step), "time": round(time.time(), 3)} | {n: _to_json(v) for n, v in values.items()}
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()

    def sync(self) -> None:
        """Flush what was written to the disk itself, where it survives a power cut."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file; appending afterwards is an error."""
        self._file.close()

    def _is_recorded(self, metrics: dict[str, float], step: int) -> bool:
        before = self._recorded.get(step, {})
        exact = {name: value for name, value in metrics.items() if not name.endswith(_CLOCKED)}
        changed = [n for n, value in exact.items() if n in before and repr(before[n]) != repr(value)]  # NaN is NaN
        if changed and not self._has_warned:
            self._has_warned = True
            name = changed[0]
            text = "%s: step %d was repeated and is not the same: %s was %r, is %r; the later value counts"
            _LOG.warning(text, self.path, step, name, before[name], exact[name])
        return bool(exact) and not changed and exact.keys() <= before.keys()


def read_records(path: Path, start: int = 0) -> Iterator[Record]:
    """Read the complete lines of a journal, also while it is being written.

    Args:
        path: a `metrics.jsonl`.
        start: byte offset of the first line to read (a `Record.end`).

    Raises:
        UserError: a complete line is not a journal record; the message names file, offset and cause.
    """
    with path.open("rb") as file:
        file.seek(start)
        end = start
        for line in file:
            if not line.endswith(b"\n"):
                return  # torn, or not yet completed by the writer
            begin, end = end, end + len(line)
            try:
                fields = json.loads(line)
                step, moment = int(fields.pop("step")), float(fields.pop("time"))
                metrics = {name: float(value) for name, value in fields.items()}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise UserError(f"{path}: the line at byte {begin} is not a metrics record ({error!r})") from error
            yield Record(step, moment, metrics, end)


def read_curves(path: Path) -> dict[str, Curve]:
    """Read every metric of a journal as a curve over steps.

    A run resumed from a checkpoint repeats the steps behind it; the later value of a step counts.

    Args:
        path: A `metrics.jsonl`.

    Returns:
        Metric name to curve, names in order of first appearance.

    Raises:
        UserError: See `read_records`.
    """
    points: dict[str, dict[int, float]] = {}
    for record in read_records(path):
        for name, value in record.metrics.items():
            points.setdefault(name, {})[record.step] = value
    return {name: Curve(sorted(at), [at[step] for step in sorted(at)]) for name, at in points.items()}


def _to_json(value: float) -> float | str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return value


def _cut_torn_tail(path: Path) -> None:
    if not path.exists():
        return
    with path.open("rb+") as file:
        content = file.read()
        complete = content.rfind(b"\n") + 1
        if complete < len(content):
            _LOG.warning("%s: cut off an incomplete last line of %d bytes", path, len(content) - complete)
            file.truncate(complete)
            os.fsync(file.fileno())
