"""Recorded curves of stage-2 runs, which of them collapsed, and what the collapse rule says of them.

`experiments/collapse_detector` records the runs and writes the fixture; test_collapse_curves.py judges the rule on it.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple, final

from redi_lab.callbacks.collapse_rule import (
    CHOSEN_BATCH,
    CollapseState,
    CollapseVerdict,
    Limits,
    Memory,
    observe,
    watched_curves,
)

FIXTURE = Path(__file__).parent / "collapse_curves.json.gz"
Label = Literal["collapsed", "recovered", "healthy"]
_HARM = 0.25
_STAYS = 3
"""Last measurements of accuracy that must all be below half for a run to have stayed there."""


class Points(NamedTuple):
    """A curve: ascending steps and their values."""

    steps: Sequence[int]
    values: Sequence[float]


@final
@dataclass(frozen=True)
class RecordedRun:
    """One run.

    Attributes:
        name: of its settings.
        seed: of its problems, traces, student and order.
        accuracy: greedy pass@1 on 100 problems that nothing else uses.
        curves: metric to points. A train/ value of step s was seen by the rule after s optimizer steps.
    """

    name: str
    seed: int
    accuracy: Points
    curves: Mapping[str, Points]

    @property
    def is_below_half(self) -> list[bool]:
        """Whether each measurement of accuracy is less than half of the best one so far.

        The best so far rather than the first one: where a policy starts depends on which of two ways of working is just
        the likelier one after SFT (0.55 to 0.98 on these seeds), and a run that went from 0.55 to 0.99 has lost more
        than half of it at 0.4.
        """
        best = itertools.accumulate(self.accuracy.values, max)
        return [value < peak / 2 for value, peak in zip(self.accuracy.values, best, strict=True)]

    @property
    def label(self) -> Label:
        """Collapsed: below half, and there to the end; recovered: below half, but not to the end."""
        below = self.is_below_half
        return "collapsed" if all(below[-_STAYS:]) else "recovered" if any(below) else "healthy"

    @property
    def halving_step(self) -> int | None:
        """First measurement below half."""
        return next((step for step, below in zip(self.accuracy.steps, self.is_below_half, strict=True) if below), None)

    @property
    def worst_loss(self) -> float:
        """The largest share of its best accuracy that the run ever lost."""
        best = itertools.accumulate(self.accuracy.values, max)
        return max(1 - value / peak for value, peak in zip(self.accuracy.values, best, strict=True))


def replay(
    run: RecordedRun, limits: Limits, every_n_steps: int = 1, curves: Sequence[str] = ()
) -> list[tuple[int, CollapseVerdict]]:
    """What the rule would have said after each measurement.

    Args:
        run: a recorded run.
        limits: of the rule.
        every_n_steps: probes of other steps are left out.
        curves: those to look at; default: those that the rule looks at in such a run.
    """
    memory, verdicts = Memory(), []
    names = curves or watched_curves(run.curves)
    at: dict[int, dict[str, float]] = {}
    for name in names:
        for step, value in zip(*run.curves[name], strict=True):
            if name == CHOSEN_BATCH or step % every_n_steps == 0:
                at.setdefault(step, {})[name] = value
    for step in sorted(at):
        memory = observe(memory, step, at[step], limits)
        verdicts.append((step, memory.verdict))
    return verdicts


def alarm_step(
    verdicts: Iterable[tuple[int, CollapseVerdict]], state: CollapseState = CollapseState.COLLAPSED
) -> int | None:
    """When the rule first said so."""
    return next((step for step, verdict in verdicts if verdict.state >= state), None)


@final
@dataclass(frozen=True)
class Score:
    """How a rule did on runs.

    Attributes:
        detected: collapsed runs with an alarm.
        collapsed: all of them.
        recovered_detected: runs with an alarm among those that fell below half and came back.
        recovered: all of them.
        false_alarms: healthy runs with an alarm.
        healthy: all of them.
        unharmed_alarms: those of them that never lost a quarter of their best accuracy, and had an alarm.
        unharmed: all of these.
        leads: steps from alarm to the first measurement of halved accuracy, for each detected one; negative is late.
    """

    detected: int
    collapsed: int
    recovered_detected: int
    recovered: int
    false_alarms: int
    healthy: int
    unharmed_alarms: int
    unharmed: int
    leads: tuple[int, ...]


def score(runs: Iterable[RecordedRun], alarms: Iterable[int | None]) -> Score:
    """Compare alarms with labels."""
    pairs = list(zip(runs, alarms, strict=True))
    by_label = {
        label: [(r, a) for r, a in pairs if r.label == label] for label in ("collapsed", "recovered", "healthy")
    }
    hits = {label: sum(alarm is not None for _, alarm in found) for label, found in by_label.items()}
    unharmed = [(run, alarm) for run, alarm in by_label["healthy"] if run.worst_loss < _HARM]
    fallen = [(run.halving_step, alarm) for run, alarm in by_label["collapsed"] + by_label["recovered"]]
    return Score(
        hits["collapsed"], len(by_label["collapsed"]), hits["recovered"], len(by_label["recovered"]),
        hits["healthy"], len(by_label["healthy"]), sum(alarm is not None for _, alarm in unharmed), len(unharmed),
        tuple(halving - alarm for halving, alarm in fallen if halving is not None and alarm is not None),
    )  # fmt: skip


def load_runs(path: Path = FIXTURE) -> list[RecordedRun]:
    """The recorded runs."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        content = json.load(file)
    return [
        RecordedRun(
            run["name"], run["seed"], Points(*run["accuracy"]), {name: Points(*c) for name, c in run["curves"].items()}
        )
        for run in content
    ]


def save_runs(runs: Iterable[RecordedRun], path: Path = FIXTURE) -> None:
    """Write them, four decimals each."""
    content = [
        {"name": run.name, "seed": run.seed, "accuracy": run.accuracy}
        | {"curves": {name: (c.steps, [round(value, 4) for value in c.values]) for name, c in run.curves.items()}}
        for run in runs
    ]
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:
        file.write(json.dumps(content).encode())
