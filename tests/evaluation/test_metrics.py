from __future__ import annotations

import json
import math
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pytest

from redi_lab.evaluation.metrics import Estimate, paired_difference, pass_at_1, pass_at_k, t_quantile


def matrix(*rows: list[int]) -> np.ndarray:
    return np.array(rows, dtype=bool)


def test_pass_at_1_by_hand() -> None:
    """P_1 = 2/3, P_2 = 1/3: mean 1/2, sample std = 1/(3√2), SEM = that / √2 = 1/6.

    Per-problem accuracies 1, 1/2, 0: s² = 1/4, n_eff = (1/4) / (1/12) = 3; t(2) = 4.3027.
    Half-width = t·√(1/12 + t²/36) / (1 + t²/3) = 4.3027·0.7731 / 7.1709 = 0.4639.
    """
    estimate = pass_at_1(matrix([1, 1], [1, 0], [0, 0]))
    assert estimate.value == 0.5
    assert estimate.sem == pytest.approx(1 / 6)
    assert (estimate.ci_low, estimate.ci_high) == pytest.approx((0.0361, 0.9639), abs=2e-4)
    assert (estimate.num_problems, estimate.num_samples) == (3, 2)


def test_one_sample_has_no_sem_and_the_record_is_json() -> None:
    estimate = pass_at_1(matrix([1], [0]))
    assert estimate.sem is None
    assert Estimate(**json.loads(json.dumps(asdict(estimate), allow_nan=False))) == estimate


@pytest.mark.parametrize("value", [0, 1])
def test_interval_at_the_ends_is_that_of_the_number_of_problems(value: int) -> None:
    """Wilson at 0 with n = 30 and t(29) = 2.0452: upper end t²/(n + t²) = 4.1830/34.1830; samples add nothing."""
    estimate = pass_at_1(np.full((30, 16), bool(value)))
    assert estimate.value == value
    away = estimate.ci_high if value == 0 else 1 - estimate.ci_low
    assert away == pytest.approx(4.1830 / 34.1830, abs=1e-4)
    assert estimate.ci_low <= value <= estimate.ci_high


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


@pytest.mark.parametrize(
    ("degrees", "expected"), [(1, 12.7062047), (2, 4.3026527), (3, 3.1824463), (10, 2.2281389), (29, 2.0452296)]
)
def test_t_quantile_matches_the_tables(degrees: int, expected: float) -> None:
    assert t_quantile(degrees) == pytest.approx(expected, abs=1e-6)


def test_t_quantile_tends_to_the_normal_one() -> None:
    assert t_quantile(100_000) == pytest.approx(1.959964, abs=1e-4)


@pytest.mark.parametrize("difficulty", [(2.0, 2.0), (0.5, 0.5), (1.0, 4.0)])
@pytest.mark.parametrize("num_problems", [30, 100, 500])
@pytest.mark.parametrize("num_samples", [1, 4, 16])
def test_interval_covers_the_truth_as_often_as_it_says(
    difficulty: tuple[float, float], num_problems: int, num_samples: int
) -> None:
    """1000 simulated benchmarks whose problems' accuracies follow a Beta distribution with a known mean."""
    generator = np.random.default_rng(7)
    accuracies = generator.beta(*difficulty, size=(1000, num_problems, 1))
    benchmarks = generator.random((1000, num_problems, num_samples), dtype=np.float32) < accuracies
    truth = difficulty[0] / sum(difficulty)
    estimates = [pass_at_1(correct) for correct in benchmarks]
    coverage = np.mean([estimate.ci_low <= truth <= estimate.ci_high for estimate in estimates])
    assert 0.93 <= coverage <= 0.97


def test_paired_interval_covers_the_truth() -> None:
    generator = np.random.default_rng(8)
    accuracies = generator.beta(1.0, 1.0, size=(1000, 80, 1))
    better = generator.random((1000, 80, 4)) < accuracies**0.5  # E[√u] = 2/3
    worse = generator.random((1000, 80, 2)) < accuracies  # E[u] = 1/2
    estimates = [paired_difference(a, b) for a, b in zip(better, worse, strict=True)]
    coverage = np.mean([estimate.ci_low <= 1 / 6 <= estimate.ci_high for estimate in estimates])
    assert 0.93 <= coverage <= 0.97


def test_bad_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"non-empty matrix .* got shape \(3,\)"):
        pass_at_1(np.zeros(3, dtype=bool))
    with pytest.raises(ValueError, match="must be booleans, got float64"):
        pass_at_1(np.full((2, 2), math.nan))
    with pytest.raises(ValueError, match="between 1 and the 2 samples, got 3"):
        pass_at_k(matrix([1, 0]), 3)
    with pytest.raises(ValueError, match="same problems, got 1 and 2"):
        paired_difference(matrix([1]), matrix([1], [0]))
