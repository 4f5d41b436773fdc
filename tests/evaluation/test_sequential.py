from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from redi_lab.evaluation.sequential import better_by, confidence_sequence, known_to, looks, rules_out

Floats = NDArray[np.float64]


def benchmark(
    generator: np.random.Generator, mean: float, spread: float, num_problems: int, rounds: int
) -> tuple[NDArray[np.bool_], float]:
    """Verdicts on fixed problems whose accuracies follow Beta(mean·spread, …), and their true score."""
    accuracies = generator.beta(mean * spread, (1 - mean) * spread, size=(num_problems, 1))
    return generator.random((num_problems, rounds)) < accuracies, float(accuracies.mean())


def test_looks_grow_and_end_at_the_last_sample() -> None:
    assert looks(16) == [1, 2, 3, 4, 6, 9, 13, 16]
    assert looks(1) == [1]
    assert looks(5) == [1, 2, 3, 4, 5]


def test_one_round_by_hand() -> None:
    """Six problems, all right, one round: √(8 ln 40 / 6) > 1 is cut to a stake of 1, so wealth is (2 − m)⁶.

    It reaches 2/0.05 = 40 where m ≤ 2 − 40^(1/6) = 0.1508.
    """
    low, high = confidence_sequence(np.ones((6, 1)), max_samples=1, confidence=0.95)
    assert low == pytest.approx(2 - 40 ** (1 / 6), abs=1e-4)
    assert high == 1.0


def test_the_interval_ends_where_values_stop_being_ruled_out() -> None:
    correct, _ = benchmark(np.random.default_rng(6), 0.6, 1.0, 50, 4)
    outcomes = correct.astype(float)
    low, high = confidence_sequence(outcomes, max_samples=16, confidence=0.95)
    for shift, is_ruled_out in ((-2e-4, True), (2e-4, False)):
        assert rules_out(outcomes, low + shift, max_samples=16, confidence=0.95)[-1] == is_ruled_out
        assert rules_out(1 - outcomes, 1 - high + shift, max_samples=16, confidence=0.95)[-1] == is_ruled_out


def test_no_gambler_is_ever_in_debt() -> None:
    """Predictions far off and every bet lost: wealth stays a number, and above 0."""
    outcomes = np.concatenate([np.tile([[1.0], [0.0]], (1, 8)), np.tile([[0.0], [1.0]], (1, 8))], axis=1)
    low, high = confidence_sequence(outcomes, max_samples=16, confidence=0.95)
    assert 0 <= low <= 0.5 <= high <= 1


def test_interval_only_shrinks_and_earlier_rounds_do_not_change() -> None:
    correct, _ = benchmark(np.random.default_rng(0), 0.5, 2.0, 100, 16)
    states = [known_to(correct[:, :count], 0.04, max_samples=16) for count in (1, 2, 4, 8, 16)]
    widths = [state.high - state.low for state in states]
    assert all(after <= before for before, after in pairwise(widths))
    assert [state.answer for state in states[:2]] == [None, None]
    assert states[-1].answer == "known"
    assert widths[-1] <= 0.08


def test_mirror_image() -> None:
    correct, _ = benchmark(np.random.default_rng(1), 0.3, 1.0, 40, 5)
    low, high = confidence_sequence(correct.astype(float), max_samples=8, confidence=0.9)
    mirrored = confidence_sequence((~correct).astype(float), max_samples=8, confidence=0.9)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_spread_between_problems_is_no_noise() -> None:
    """The same score is known better where each problem is nearly always or nearly never solved."""
    generator = np.random.default_rng(2)
    even = generator.random((200, 12)) < 0.5
    split = generator.random((200, 12)) < np.where(np.arange(200) < 100, 0.03, 0.97)[:, None]
    widths = [state.high - state.low for state in (known_to(x, 0.0, max_samples=12) for x in (even, split))]
    assert widths[1] < 0.6 * widths[0]


def test_a_clear_difference_is_answered_at_once_and_both_ways() -> None:
    generator = np.random.default_rng(3)
    good, _ = benchmark(generator, 0.8, 2.0, 300, 2)
    bad, _ = benchmark(generator, 0.4, 2.0, 300, 2)
    assert better_by(good[:, :1], bad[:, :1], 0.0, max_samples=16).answer == "yes"
    assert better_by(bad[:, :1], good[:, :1], 0.0, max_samples=16).answer == "no"
    assert better_by(good, bad, 0.6, max_samples=16).answer == "no"
    assert better_by(good, good, 0.0, max_samples=16).answer is None


@pytest.mark.parametrize(
    ("mean", "spread", "num_problems"),
    [
        (0.3, 1.0, 30),
        (0.05, 0.5, 100),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((0.5, 1000.0, 100), (0.95, 2.0, 30))),
    ],
)
def test_error_over_all_looks_stays_below_its_bound(mean: float, spread: float, num_problems: int) -> None:
    """In 300 benchmarks, look after each of 16 rounds: at most 5 % may ever exclude the truth (10 % intervals: 10 %).

    With 300 repetitions a rate of 0.1 is seen above 0.14 once in a hundred times.
    """
    generator = np.random.default_rng(4)
    is_missed = []
    for _ in range(300):
        correct, truth = benchmark(generator, mean, spread, num_problems, 16)
        outcomes = correct.astype(np.float64)
        sides = ((outcomes, truth), (1 - outcomes, 1 - truth))
        is_missed.append(any(rules_out(x, m, max_samples=16, confidence=0.9)[-1] for x, m in sides))
    assert np.mean(is_missed) <= 0.14


def test_looking_often_at_a_fixed_interval_is_what_this_prevents() -> None:
    """The usual test at every look calls equal runs different far too often; the sequence does so within its bound."""
    generator = np.random.default_rng(5)
    naive, ours = [], []
    for _ in range(200):
        accuracies = generator.beta(1.0, 1.0, size=(60, 1))
        new, old = (generator.random((60, 16)) < accuracies for _ in range(2))
        rounds = (new.astype(float) - old).mean(axis=0)
        counts = np.arange(1, 17)
        noise = np.sqrt(2 * (accuracies * (1 - accuracies)).mean() / 60 / counts)
        naive.append(bool((np.abs(rounds.cumsum() / counts) > 1.96 * noise).any()))
        halved = (new.astype(float) - old + 1) / 2
        ours.append(any(rules_out(x, 0.5, max_samples=16, confidence=0.95)[-1] for x in (halved, 1 - halved)))
    assert np.mean(naive) > 0.12
    assert np.mean(ours) <= 0.08
