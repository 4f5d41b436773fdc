"""The collapse rule, judged on recorded runs, on the paper's own curves and on curves of their shape.

A change of the rule shows here within seconds. The floors lie a little below what the rule reaches
(`experiments/collapse_detector`).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from redi_lab.callbacks.collapse_rule import ACCURACY, CHOSEN_BATCH, CHOSEN_PROBE, CollapseState, Limits
from tests.callbacks.collapse_curves import (
    EDGES,
    HARM,
    PAPER,
    RECORDED,
    Points,
    RecordedRun,
    alarm_step,
    load_runs,
    replay,
    score,
)

STEPS = 1660
"""Of the paper's second stage."""
DRIFTING = CollapseState.DRIFTING


@cache
def runs_of(file: Path) -> list[RecordedRun]:
    return load_runs(file)


def test_the_recorded_runs_hold_both_kinds() -> None:
    for runs, least in ((runs_of(RECORDED), (40, 25)), (runs_of(EDGES), (50, 150))):
        harmed = [run for run in runs if run.first_loss(HARM) is not None]
        assert len(harmed) >= least[0]
        assert len(runs) - len(harmed) >= least[1]


@pytest.mark.parametrize(("file", "flagged"), [(RECORDED, 0.05), (EDGES, 0.3)])
@pytest.mark.parametrize("every_n_steps", [5, 10])
def test_nearly_all_harm_is_suspected_and_every_crash(file: Path, flagged: float, every_n_steps: int) -> None:
    runs = runs_of(file)
    found = score(runs, [alarm_step(replay(run, Limits(), every_n_steps), DRIFTING) for run in runs])
    assert found.caught >= 0.95 * found.harmed
    assert found.crashes_caught == found.crashed
    assert found.false_alarms <= flagged * found.unharmed


@pytest.mark.parametrize("file", [RECORDED, EDGES])
def test_accuracy_tells_which_suspicion_is_right(file: Path) -> None:
    runs = runs_of(file)
    found = score(runs, [alarm_step(replay(run, Limits(), curves=(CHOSEN_PROBE, ACCURACY))) for run in runs])
    assert found.caught >= 0.9 * found.harmed
    assert found.crashes_caught == found.crashed
    assert found.false_alarms <= 0.05 * found.unharmed


@pytest.mark.parametrize("file", [RECORDED, EDGES])
def test_without_probes_most_are_caught(file: Path) -> None:
    runs = runs_of(file)
    found = score(runs, [alarm_step(replay(run, Limits(), curves=(CHOSEN_BATCH,))) for run in runs])
    assert found.crashes_caught >= 0.8 * found.crashed
    assert found.false_alarms <= 0.1 * found.unharmed


PAPERS_COLLAPSES = {"sym 1e-6", "sym 2e-7", "SimPO b2 5e-7", "SimPO b10 3e-7", "DPO b.001 1e-6"}
"""Both log-probs fall sharply together (Figures 3, 5 and 6 of arXiv 2505.24850)."""


@pytest.mark.parametrize("state", [DRIFTING, CollapseState.COLLAPSED])
def test_the_papers_collapses_are_caught_though_none_loses_a_quarter(state: CollapseState) -> None:
    """The figures hold no probes: the rule sees the mean log-prob of chosen traces alone."""
    runs = load_runs(PAPER)
    alarms = {run.name: alarm_step(replay(run, Limits(window_steps=STEPS // 10)), state) for run in runs}
    assert {name for name, alarm in alarms.items() if alarm is not None} == PAPERS_COLLAPSES
    assert len(runs) == 11
    assert all(run.first_loss(HARM) is None for run in runs)


Shape = Callable[[float], float]


def _slow(total: float) -> Shape:
    """A joint decline by `total` nats per token, evenly over the whole training."""
    return lambda progress: -0.45 - total * progress


def _plunge(start: float, total: float, width: float) -> Shape:
    """The same slow decline by 0.2, and from `start` on a fall by `total` within the share `width` of training."""
    return lambda progress: -0.45 - 0.2 * progress - total * min(max((progress - start) / width, 0.0), 1.0) ** 2


def _batches(shape: Shape, seed: int) -> RecordedRun:
    """Mean log-probs of batches of 32 chosen traces: the shape, and noise of 0.03 nats per token."""
    rng = random.Random(seed)
    steps = range(1, STEPS + 1)
    values = [shape(step / STEPS) + rng.gauss(0, 0.03) for step in steps]
    return RecordedRun("paper", seed, Points([0], [0.8]), {CHOSEN_BATCH: Points(steps, values)})


WINDOW = round(0.1 * STEPS)
"""What the detector chooses for a training of this length."""


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("total", [0.0, 0.2, 0.6, 1.2])
def test_the_slow_decline_of_the_best_run_is_benign(total: float, seed: int) -> None:
    """REDI with α = 0.8 at 1e-6 (paper, Fig. 6): both log-probs sink slowly and smoothly while accuracy improves."""
    verdicts = replay(_batches(_slow(total), seed), Limits(window_steps=WINDOW))
    assert alarm_step(verdicts) is None


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("start", "total", "width"),
    [(0.5, 2.0, 0.1), (0.5, 4.0, 0.2), (0.3, 1.0, 0.1)],
    ids=["dpo-beta-0.001", "alpha-1-at-1e-6", "mild"],
)
def test_the_papers_collapses_are_caught_while_they_happen(start: float, total: float, width: float, seed: int) -> None:
    """DPO with β = 0.001 (Fig. 3) and α = 1 at 1e-6 (Fig. 6): peak accuracy, then both log-probs drop sharply."""
    verdicts = replay(_batches(_plunge(start, total, width), seed), Limits(window_steps=WINDOW))
    alarm = alarm_step(verdicts, CollapseState.COLLAPSED)
    assert alarm is not None
    assert start * STEPS < alarm < (start + width) * STEPS
