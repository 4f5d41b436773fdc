from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from itertools import combinations

import numpy as np
import pytest
from scipy import special, stats

from redi_lab.evaluation.metrics import (
    Estimate,
    average,
    interval,
    paired_difference,
    pass_at_1,
    pass_at_k,
    t_quantile,
)


def matrix(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=bool)


def test_pass_at_1_by_hand() -> None:
    """P_1 = 2/3, P_2 = 1/3: mean 1/2, sample std = 1/(3√2), SEM = that / √2 = 1/6.

    Per-problem accuracies 1, 1/2, 0 and half a problem each at 0 and 1: mean 1/2, squares 1/4 + 1/4 + 2·(1/2)(1/4)
    = 3/4, so the posterior's variance is (3/4) / (4·5) = 3/80, that of Beta(17/6, 17/6).
    """
    estimate = pass_at_1(matrix([1, 1], [1, 0], [0, 0]))
    assert estimate.value == 0.5
    assert estimate.sem == pytest.approx(1 / 6)
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx(stats.beta(17 / 6, 17 / 6).interval(0.95))
    assert (estimate.num_problems, estimate.num_samples) == (3, 2)


def test_yes_and_no_have_the_interval_of_jeffreys() -> None:
    """12 of 30: the quantiles of Beta(12.5, 18.5)."""
    estimate = pass_at_1(np.arange(30)[:, None] < 12)
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx(stats.beta(12.5, 18.5).interval(0.95))


def test_one_sample_has_no_sem_and_the_record_is_json() -> None:
    estimate = pass_at_1(matrix([1], [0]))
    assert estimate.sem is None
    assert Estimate(**json.loads(json.dumps(asdict(estimate), allow_nan=False))) == estimate


@pytest.mark.parametrize("value", [0, 1])
def test_interval_at_the_ends_is_that_of_the_number_of_problems(value: int) -> None:
    """Beta(1/2, 30.5) at 0, whatever the samples; the end itself belongs to the interval."""
    estimate = pass_at_1(np.full((30, 16), bool(value)))
    away = estimate.ci_high if value == 0 else 1 - estimate.ci_low
    assert away == pytest.approx(stats.beta(0.5, 30.5).ppf(0.975))
    assert value == estimate.value == (estimate.ci_low if value == 0 else estimate.ci_high)


def test_repeating_each_sample_narrows_nothing() -> None:
    once = np.random.default_rng(1).random((40, 1)) < 0.4
    many = np.repeat(once, 8, axis=1)
    assert pass_at_1(many).ci_high - pass_at_1(many).ci_low == pytest.approx(
        pass_at_1(once).ci_high - pass_at_1(once).ci_low
    )


def test_pass_at_k_by_hand() -> None:
    """n = 4, k = 2, c = 1: 1 − C(3,2)/C(4,2) = 1/2; c = 0: 0; c = 3: 1."""
    estimate = pass_at_k(matrix([1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 1]), 2)
    assert estimate.value == pytest.approx(0.5)
    assert estimate.sem is None


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_pass_at_k_is_the_mean_over_all_subsets(k: int) -> None:
    correct = np.random.default_rng(0).random((7, 6)) < 0.3
    naive = np.mean([correct[:, list(subset)].any(axis=1).mean() for subset in combinations(range(6), k)])
    assert pass_at_k(correct, k).value == pytest.approx(naive)


def test_pass_at_1_is_pass_at_k_of_one() -> None:
    correct = np.random.default_rng(2).random((20, 4)) < 0.5
    first, second = pass_at_1(correct), pass_at_k(correct, 1)
    assert (first.value, first.ci_low, first.ci_high) == pytest.approx((second.value, second.ci_low, second.ci_high))


def test_many_samples_stay_exact() -> None:
    correct = np.zeros((1, 2000), dtype=bool)
    correct[0, 0] = True
    assert pass_at_k(correct, 1000).value == pytest.approx(0.5)


def test_paired_difference_by_hand() -> None:
    """Differences 1, 0, 0, 0: mean 1/4, s = 1/2, half-width t(3)·(1/2)/√4 = 0.7956; 1.0456 is clipped to 1."""
    uneven = paired_difference(matrix([1, 1], [0, 1]), matrix([1, 0, 0, 1], [1, 1, 1, 1]))
    assert uneven.value == 0.0  # (1 − 1/2 + 1/2 − 1) / 2
    assert uneven.num_samples == 2
    four = paired_difference(matrix([1], [0], [1], [0]), matrix([0], [0], [1], [0]))
    assert four.value == 0.25
    assert four.ci_low == pytest.approx(0.25 - 3.182446 * 0.5 / 2)
    assert four.ci_high == 1.0


def test_equal_runs_still_have_an_interval() -> None:
    correct = np.random.default_rng(3).random((50, 4)) < 0.5
    estimate = paired_difference(correct, correct)
    assert estimate.value == 0
    assert estimate.ci_low == -estimate.ci_high < -0.05


@pytest.mark.parametrize(("degrees", "expected"), [(1, 12.7062047), (3, 3.1824463), (29, 2.0452296)])
def test_t_quantile_matches_the_tables(degrees: int, expected: float) -> None:
    assert t_quantile(degrees) == pytest.approx(expected, abs=1e-6)


def test_average_by_hand() -> None:
    """Distances 3 and 4 hundredths make 5/2; the SEM of the paper's table 1 is √Σ sem² / 5."""
    first = Estimate(0.8, 0.77, 0.84, 0.003, 500, 16)
    second = Estimate(0.2, 0.16, 0.23, 0.004, 30, 4)
    both = average([first, second])
    assert (both.value, both.ci_low, both.ci_high) == pytest.approx((0.5, 0.475, 0.525))
    assert both.sem == pytest.approx(0.0025)
    assert (both.num_problems, both.num_samples) == (530, 4)
    table = [Estimate(0.5, 0.4, 0.6, sem, 30, 16) for sem in (0.3, 1.1, 0.6, 0.3, 0.2)]
    assert average(table).sem == pytest.approx(0.27, abs=0.005)
    assert average([first]) == first
    assert average([first, replace(second, sem=None)]).sem is None
    with pytest.raises(ValueError, match="no estimate"):
        average([])


BENCHMARKS = 1000


def simulated(mean: float, spread: float, num_problems: int, num_samples: int) -> np.ndarray:
    """Verdicts of simulated benchmarks, whose problems' accuracies follow Beta(mean·spread, (1 − mean)·spread)."""
    generator = np.random.default_rng(7)
    accuracies = generator.beta(mean * spread, (1 - mean) * spread, size=(BENCHMARKS, num_problems, 1))
    return generator.random((BENCHMARKS, num_problems, num_samples), dtype=np.float32) < accuracies


def coverage(values: np.ndarray, truth: float) -> float:
    """How often the intervals of many benchmarks' scores hold the truth."""
    low, high = interval(values)
    return float(np.mean((low <= truth) & (truth <= high)))


@pytest.mark.parametrize("k", [1, 4, 8])
def test_intervals_of_many_benchmarks_at_once_are_those_of_each(k: int) -> None:
    verdicts = simulated(0.3, 2.0, 30, 8)[:20]
    ends = np.transpose(interval(at_k(verdicts, k)))
    each = [pass_at_1(correct) if k == 1 else pass_at_k(correct, k) for correct in verdicts]
    assert ends == pytest.approx(np.array([(estimate.ci_low, estimate.ci_high) for estimate in each]), abs=1e-12)


def at_k(verdicts: np.ndarray, k: int) -> np.ndarray:
    """The chance that a draw of k of each problem's samples holds a right one, by another formula than pass_at_k's."""
    wrong, total = (~verdicts).sum(axis=-1), verdicts.shape[-1]
    return np.asarray(1 - special.binom(wrong, k) / special.binom(total, k))


@pytest.mark.parametrize(("mean", "spread"), [(0.5, 4.0), (0.5, 1.0), (0.2, 5.0), (0.8, 1.0), (0.85, 2.0)])
@pytest.mark.parametrize(("num_problems", "num_samples"), [(30, 1), (30, 4), (100, 4), (30, 16), (500, 16)])
def test_interval_covers_the_truth_as_often_as_it_says(
    mean: float, spread: float, num_problems: int, num_samples: int
) -> None:
    """Between 93 % and 97 %; a rate of 95 % is outside 93.3–96.7 % in 1000 repetitions once in a hundred times.

    One sample of 30 problems has 31 outcomes: its rate moves in jumps.
    """
    slack = 0.015 if num_samples == 1 else 0.003
    covered = coverage(at_k(simulated(mean, spread, num_problems, num_samples), 1), mean)
    assert 0.93 - slack <= covered <= 0.97 + slack


@pytest.mark.parametrize("mean", [0.02, 0.05, 0.9, 0.95, 0.98])
@pytest.mark.parametrize(("num_problems", "num_samples"), [(30, 4), (30, 16), (100, 16)])
def test_near_the_ends_it_covers_more_rather_than_less(mean: float, num_problems: int, num_samples: int) -> None:
    assert coverage(at_k(simulated(mean, 2.0, num_problems, num_samples), 1), mean) >= 0.94


@pytest.mark.parametrize(("mean", "spread"), [(0.3, 2.0), (0.6, 2.0), (0.9, 0.5), (0.9, 2.0), (0.6, 10.0)])
@pytest.mark.parametrize("num_problems", [30, 100])
@pytest.mark.parametrize("k", [4, 8])
def test_pass_at_k_covers_the_truth_up_to_the_very_end(mean: float, spread: float, num_problems: int, k: int) -> None:
    """E[1 − (1 − p)^k] under Beta(a, b) is 1 − B(a, b + k)/B(a, b): from 0.58 to 0.995 in these cases."""
    a, b = mean * spread, (1 - mean) * spread
    truth = 1 - math.exp(special.betaln(a, b + k) - special.betaln(a, b))
    assert coverage(at_k(simulated(mean, spread, num_problems, 16), k), truth) >= 0.925


def test_average_covers_the_truth() -> None:
    """Three benchmarks of 30, 80 and 500 problems with scores 0.25, 0.6 and 0.8."""
    scores = [
        at_k(simulated(mean, spread, count, 4), 1)
        for mean, spread, count in ((0.25, 1.0, 30), (0.6, 1.0, 80), (0.8, 2.0, 500))
    ]
    parts = [(values.mean(axis=1), *interval(values)) for values in scores]
    estimates = [
        average([Estimate(value[i], low[i], high[i], None, 1, 4) for value, low, high in parts])
        for i in range(BENCHMARKS)
    ]
    assert 0.93 <= np.mean([estimate.ci_low <= 0.55 <= estimate.ci_high for estimate in estimates]) <= 0.97


def test_paired_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(8)
    accuracies = generator.beta(1.0, 1.0, size=(1000, 80, 1))
    better = generator.random((1000, 80, 4)) < accuracies**0.5  # E[√u] = 2/3
    worse = generator.random((1000, 80, 2)) < accuracies  # E[u] = 1/2
    estimates = [paired_difference(a, b) for a, b in zip(better, worse, strict=True)]
    assert 0.93 <= np.mean([estimate.ci_low <= 1 / 6 <= estimate.ci_high for estimate in estimates]) <= 0.97


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"non-empty matrix .* got shape \(3,\)"):
        pass_at_1(np.zeros(3, dtype=bool))
    with pytest.raises(ValueError, match="must be booleans, got float64"):
        pass_at_1(np.full((2, 2), math.nan))
    with pytest.raises(ValueError, match="between 1 and the 2 samples, got 3"):
        pass_at_k(matrix([1, 0]), 3)
    with pytest.raises(ValueError, match="same problems, got 1 and 2"):
        paired_difference(matrix([1]), matrix([1], [0]))
