"""Recorded curves of stage-2 runs, which of them came to harm, and what the collapse rule says of them.

`experiments/collapse_detector` writes the fixtures; test_collapse_curves.py judges the rule on them.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, final

from redi_lab.callbacks.collapse_rule import (
    ACCURACY,
    CHOSEN_BATCH,
    CollapseState,
    CollapseVerdict,
    Limits,
    Memory,
    observe,
    watched_curves,
)

HERE = Path(__file__).parent
RECORDED = HERE / "collapse_curves.json.gz"
"""72 runs of four objectives, six seeds; their rule was found on them."""
EDGES = HERE / "edge_curves.json.gz"
"""Runs of `experiments/collapse_edges`, 22 objectives; the rule had not seen them."""
PAPER = HERE / "paper_curves.json.gz"
"""The eleven runs of Figures 3, 5, 6 and 7 of arXiv 2505.24850, read off the figures."""
HARM = Limits().harm_share
CRASH = 0.5


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
        accuracy: pass@1 on problems that nothing else uses.
        curves: metric to points. A train/ value of step s was seen by the rule after s optimizer steps.
    """

    name: str
    seed: int
    accuracy: Points
    curves: Mapping[str, Points]

    def first_loss(self, share: float) -> int | None:
        """The first step at which this share of the best accuracy so far was lost; None if it never was.

        The best so far rather than the first one: where a policy starts depends on which of two ways of working is just
        the likelier one after SFT (0.55 to 0.98 on these seeds), and a run that went from 0.55 to 0.99 has lost more
        than half of it at 0.4.
        """
        best = itertools.accumulate(self.accuracy.values, max)
        measured = zip(*self.accuracy, best, strict=True)
        return next((step for step, value, peak in measured if value < (1 - share) * peak), None)


def replay(
    run: RecordedRun, limits: Limits, every_n_steps: int = 1, curves: Sequence[str] = ()
) -> list[tuple[int, CollapseVerdict]]:
    """What the rule would have said after each measurement.

    Args:
        run: a recorded run.
        limits: of the rule.
        every_n_steps: probes of other steps are left out.
        curves: those to look at; default: the log-probs that the rule looks at in such a run, without its accuracy.
    """
    memory, verdicts = Memory(), []
    names = curves or tuple(name for name in watched_curves(run.curves) if name != ACCURACY)
    at: dict[int, dict[str, float]] = {}
    for name in names:
        for step, value in zip(*(run.accuracy if name == ACCURACY else run.curves[name]), strict=True):
            if name in (CHOSEN_BATCH, ACCURACY) or step % every_n_steps == 0:
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
        caught: runs with an alarm among those that lost a quarter of their best accuracy at any time.
        harmed: all of these.
        crashes_caught: those of them that lost half, and had an alarm.
        crashed: all of these.
        false_alarms: runs with an alarm that never lost a quarter.
        unharmed: all of these.
        leads: steps from alarm to the first measurement of harm, for each run that is caught; negative is late.
    """

    caught: int
    harmed: int
    crashes_caught: int
    crashed: int
    false_alarms: int
    unharmed: int
    leads: tuple[int, ...]


def score(runs: Iterable[RecordedRun], alarms: Iterable[int | None]) -> Score:
    """Compare alarms with harm."""
    pairs = [(run, run.first_loss(HARM), alarm) for run, alarm in zip(runs, alarms, strict=True)]
    harmed = [(run, harm, alarm) for run, harm, alarm in pairs if harm is not None]
    crashed = [alarm for run, _, alarm in harmed if run.first_loss(CRASH) is not None]
    unharmed = [alarm for _, harm, alarm in pairs if harm is None]
    leads = tuple(harm - alarm for _, harm, alarm in harmed if alarm is not None)
    return Score(
        len(leads), len(harmed), _alarms(crashed), len(crashed), _alarms(unharmed), len(unharmed), leads
    )  # fmt: skip


def _alarms(found: Iterable[int | None]) -> int:
    return sum(alarm is not None for alarm in found)


def load_runs(path: Path = RECORDED) -> list[RecordedRun]:
    """The recorded runs of a fixture."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        content = json.load(file)
    return [
        RecordedRun(
            run["name"], run["seed"], Points(*run["accuracy"]), {name: Points(*c) for name, c in run["curves"].items()}
        )
        for run in content
    ]


def save_runs(runs: Iterable[RecordedRun], path: Path) -> None:
    """Write them, four decimals each."""
    content = [
        {"name": run.name, "seed": run.seed, "accuracy": run.accuracy}
        | {"curves": {name: (c.steps, [round(value, 4) for value in c.values]) for name, c in run.curves.items()}}
        for run in runs
    ]
    with path.open("wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:
        file.write(json.dumps(content).encode())
