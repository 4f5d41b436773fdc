"""The collapse rule on hand-made curves; test_collapse_curves.py judges it on recorded ones."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import pytest

from redi_lab.callbacks.collapse_rule import (
    ACCURACY,
    CHOSEN_BATCH,
    CHOSEN_PROBE,
    CollapseState,
    CollapseVerdict,
    Limits,
    Memory,
    observe,
    watched_curves,
)

LIMITS = Limits(drifting_nats=0.15, collapsed_nats=0.3, window_steps=50)


def replay(points: Iterable[tuple[int, Mapping[str, float]]], limits: Limits = LIMITS) -> list[CollapseVerdict]:
    memory, verdicts = Memory(), []
    for step, values in points:
        memory = observe(memory, step, values, limits)
        verdicts.append(memory.verdict)
    return verdicts


def states(name: str, values: Iterable[float], *, every: int = 10) -> list[CollapseState]:
    return [verdict.state for verdict in replay((every * i, {name: value}) for i, value in enumerate(values))]


def test_a_plunge_goes_from_healthy_to_drifting_to_collapsed() -> None:
    """The falls are 0, 0.1, 0.2, 0.25 and 0.4."""
    healthy, drifting, collapsed = CollapseState.HEALTHY, CollapseState.DRIFTING, CollapseState.COLLAPSED
    expected = [healthy, healthy, drifting, drifting, collapsed]
    assert states(CHOSEN_PROBE, [-0.5, -0.6, -0.7, -0.75, -0.9]) == expected


def test_the_verdict_says_since_when_how_much_and_why() -> None:
    verdict = replay([(0, {CHOSEN_PROBE: -0.5}), (10, {CHOSEN_PROBE: -0.7}), (20, {CHOSEN_PROBE: -1.4})])[-1]
    assert (verdict.state, verdict.step) == (CollapseState.COLLAPSED, 20)
    assert verdict.statistic == pytest.approx(0.9 / 0.3)
    assert verdict.reason == (
        "the mean log-prob of held-back positives fell by 0.9 nats within 20 steps, from -0.50 to -1.40"
        " (limit 0.3 within 50)"
    )


def test_a_slow_decline_of_any_depth_is_benign() -> None:
    """0.05 nats in 10 steps are 0.25 in the window of 50, for ever."""
    assert CollapseState.COLLAPSED not in states(CHOSEN_PROBE, [-0.5 - 0.05 * i for i in range(100)])


def test_a_drift_can_end_but_a_collapse_is_final() -> None:
    assert states(CHOSEN_PROBE, [-0.5, -0.7, -0.5])[1:] == [CollapseState.DRIFTING, CollapseState.HEALTHY]
    assert states(CHOSEN_PROBE, [-0.5, -2, -2, -0.5, -0.5])[-1] is CollapseState.COLLAPSED


def test_the_fall_counts_from_the_best_value_of_the_window() -> None:
    """A policy that first gets surer (−1 to −0.2) and then loses 0.35 nats is beyond the limit of 0.3."""
    verdicts = replay((10 * i, {CHOSEN_PROBE: value}) for i, value in enumerate([-1.0, -0.5, -0.2, -0.55]))
    assert verdicts[-1].state is CollapseState.COLLAPSED
    assert verdicts[-1].statistic == pytest.approx(0.35 / 0.3)


def test_of_a_run_that_drifts_accuracy_decides() -> None:
    """A quarter of 0.8, the best so far, may be lost; without a drift accuracy says nothing."""
    drift = [(0, {CHOSEN_PROBE: -0.5, ACCURACY: 0.6}), (5, {ACCURACY: 0.8}), (10, {CHOSEN_PROBE: -0.7})]
    kept, lost = (replay([*drift, (15, {ACCURACY: accuracy})])[-1] for accuracy in (0.61, 0.59))
    assert kept.state is CollapseState.DRIFTING
    assert (lost.state, lost.step) == (CollapseState.COLLAPSED, 15)
    assert lost.reason.startswith("accuracy fell from 0.8 to 0.59, and the mean log-prob of held-back positives fell")
    calm = replay([(0, {CHOSEN_PROBE: -0.5, ACCURACY: 0.8}), (10, {CHOSEN_PROBE: -0.6, ACCURACY: 0.1})])[-1]
    assert calm.state is CollapseState.HEALTHY


@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_what_is_not_finite_is_a_collapse_at_once(value: float) -> None:
    verdict = replay([(0, {CHOSEN_PROBE: -0.5}), (10, {CHOSEN_PROBE: value})])[-1]
    assert (verdict.state, verdict.step) == (CollapseState.COLLAPSED, 10)
    assert CHOSEN_PROBE in verdict.reason


def test_noisy_batches_must_fall_by_more_than_their_noise() -> None:
    """Batches that jump by ±0.5 say nothing by being lower for a few steps; calm ones do."""
    jumpy = [-1.0 + (0.5 if i % 2 else -0.5) for i in range(60)]
    calm = [-1.0 + (0.01 if i % 2 else -0.01) for i in range(60)]
    assert CollapseState.COLLAPSED not in states(CHOSEN_BATCH, [*jumpy, *(v - 0.5 for v in jumpy[:9])], every=1)
    assert CollapseState.COLLAPSED in states(CHOSEN_BATCH, [*calm, *(v - 0.5 for v in calm[:9])], every=1)


def test_a_few_first_batches_are_not_judged() -> None:
    assert set(states(CHOSEN_BATCH, [-0.1, -3, -5, -7, -9], every=1)) == {CollapseState.HEALTHY}


def test_probes_are_watched_where_there_are_any() -> None:
    assert watched_curves({CHOSEN_PROBE, CHOSEN_BATCH}) == (CHOSEN_PROBE, ACCURACY)
    assert watched_curves({CHOSEN_BATCH, "train/loss"}) == (CHOSEN_BATCH, ACCURACY)


def test_memory_moves_with_a_run_that_is_rolled_back() -> None:
    """What the snapshot of step 10 remembers must still be within the window when training goes on at step 90."""
    memory = Memory()
    for step, value in ((0, -0.5), (10, -0.5)):
        memory = observe(memory, step, {CHOSEN_PROBE: value}, LIMITS)
    memory = memory.moved(80)
    for step in (100, 110):
        memory = observe(memory, step, {CHOSEN_PROBE: -0.9}, LIMITS)
    assert memory.verdict.state is CollapseState.COLLAPSED
