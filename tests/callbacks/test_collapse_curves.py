"""The collapse rule, judged on recorded runs and on curves shaped like the paper's figures.

A change of the rule shows here within seconds. The floors lie a little below what the rule reaches on all runs,
those for tuning and those that tuning never saw (`experiments/collapse_detector` tells them apart).
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from redi_lab.callbacks.collapse_rule import CHOSEN_BATCH, CHOSEN_PROBE, CollapseState, Limits
from tests.callbacks.collapse_curves import Points, RecordedRun, alarm_step, load_runs, replay, score

STEPS = 1660
"""Of the paper's second stage."""


@pytest.fixture(scope="module")
def recorded() -> list[RecordedRun]:
    return load_runs()


def test_the_recorded_runs_hold_both_kinds(recorded: list[RecordedRun]) -> None:
    labels = [run.label for run in recorded]
    assert len(recorded) >= 60
    assert labels.count("collapsed") >= 15
    assert labels.count("healthy") >= 30


@pytest.mark.parametrize("every_n_steps", [5, 10])
def test_crashes_are_caught_and_unharmed_runs_left_alone(every_n_steps: int, recorded: list[RecordedRun]) -> None:
    found = score(recorded, [alarm_step(replay(run, Limits(), every_n_steps)) for run in recorded])
    assert found.detected + found.recovered_detected >= 0.9 * (found.collapsed + found.recovered)
    assert found.false_alarms <= 0.2 * found.healthy
    assert found.unharmed_alarms == 0


def test_most_alarms_come_before_accuracy_is_seen_to_halve(recorded: list[RecordedRun]) -> None:
    found = score(recorded, [alarm_step(replay(run, Limits(), 5)) for run in recorded])
    assert sum(lead >= 0 for lead in found.leads) >= 0.75 * len(found.leads)


def test_drifting_warns_of_every_crash_but_of_no_unharmed_run(recorded: list[RecordedRun]) -> None:
    alarms = [alarm_step(replay(run, Limits(), 5), CollapseState.DRIFTING) for run in recorded]
    found = score(recorded, alarms)
    assert (found.detected, found.recovered_detected) == (found.collapsed, found.recovered)
    assert found.unharmed_alarms == 0


def test_without_probes_most_are_caught(recorded: list[RecordedRun]) -> None:
    alarms = [alarm_step(replay(run, Limits(), curves=(CHOSEN_BATCH,))) for run in recorded]
    found = score(recorded, alarms)
    assert found.detected + found.recovered_detected >= 0.8 * (found.collapsed + found.recovered)
    assert found.unharmed_alarms == 0


PAPERS_COLLAPSES = {"sym 1e-6", "sym 2e-7", "SimPO b2 5e-7", "SimPO b10 3e-7", "DPO b.001 1e-6"}
"""Both log-probs fall sharply together (Figures 3, 5 and 6 of arXiv 2505.24850)."""


def test_the_papers_collapses_are_caught_though_none_loses_half(shared_data: Callable[[str], Path]) -> None:
    """The figures hold no probes: the rule sees the mean log-prob of chosen traces alone."""
    curves = json.loads(shared_data("paper_curves.json").read_text(encoding="utf-8"))
    runs = [
        RecordedRun(
            name,
            0,
            Points(*zip(*run["math500_accuracy"], strict=True)),
            {CHOSEN_PROBE: Points(*zip(*run["chosen_logps"], strict=True))},
        )
        for name, run in curves.items()
    ]
    limits = Limits(window_steps=STEPS // 10)
    alarms = {run.name: alarm_step(replay(run, limits, curves=(CHOSEN_PROBE,))) for run in runs}
    assert {name for name, alarm in alarms.items() if alarm is not None} == PAPERS_COLLAPSES
    assert len(runs) == 11
    assert {run.label for run in runs} == {"healthy"}
    assert max(run.worst_loss for run in runs) < 0.2


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
