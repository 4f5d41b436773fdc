"""Two kinds of training over seeds and problems: by hand, against simulations, and at the edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from redi_lab.evaluation.comparison import Finding, compare_over_seeds


def test_crossed_mean_squares_by_hand() -> None:
    """Row means 1 and 3, column means 1 and 3 (in tenths), no interaction: MS_s = 4, MS_p = 4, MS_e = 0."""
    made = compare_over_seeds(np.array([[0.0, 0.2], [0.2, 0.4]]), 4, has_same_problems=True)
    assert made.estimate.value == pytest.approx(0.2)
    variance = (0.04 + 0.04 - 0.0) / 4
    freedom = 0.08**2 / (0.04**2 / 1 + 0.04**2 / 1)
    half = stats.t.ppf(0.975, freedom) * math.sqrt(variance)
    assert made.estimate.ci_low == pytest.approx(0.2 - half) or made.estimate.ci_low == -1.0
    assert made.seed_deviation == pytest.approx(math.sqrt(0.04 / 2))
    assert made.p_value == pytest.approx(2 * stats.t.sf(0.2 / math.sqrt(variance), freedom))


def test_problems_of_their_own_leave_the_means_of_seeds() -> None:
    """Then it is Student's interval over seeds."""
    generator = np.random.default_rng(0)
    differences = generator.normal(0.1, 0.2, (4, 50))
    made = compare_over_seeds(differences, 1, has_same_problems=False)
    reference = stats.ttest_1samp(differences.mean(axis=1), 0.0)
    low, high = reference.confidence_interval(0.95)
    assert [made.estimate.ci_low, made.estimate.ci_high] == pytest.approx([low, high])
    assert made.p_value == pytest.approx(reference.pvalue)
    assert made.estimate.num_problems == 200
    assert made.seed_deviation is None


@pytest.mark.parametrize("is_crossed", [True, False])
@pytest.mark.parametrize(
    ("of_seeds", "of_problems"),
    [(0.0, 0.0), (0.04, 0.1), *(pytest.param(*both, marks=pytest.mark.slow) for both in ((0.04, 0.0), (0.0, 0.1)))],
)
@pytest.mark.parametrize("seeds", [2, pytest.param(3, marks=pytest.mark.slow), 6])
def test_intervals_cover_what_is_true_of_other_seeds_and_problems(
    seeds: int, of_problems: float, of_seeds: float, *, is_crossed: bool
) -> None:
    generator, true, covered = np.random.default_rng(7), 0.05, 0
    for _ in range(400):
        shift = generator.normal(0, of_seeds, (seeds, 1))
        shift = shift + generator.normal(0, of_problems, (1 if is_crossed else seeds, 60))
        differences = true + shift + generator.normal(0, 0.2, (seeds, 60))
        estimate = compare_over_seeds(differences, 4, has_same_problems=is_crossed).estimate
        covered += estimate.ci_low <= true <= estimate.ci_high
    assert covered / 400 > 0.915  # 95 % less three standard deviations of 400 draws


def test_seeds_that_would_decide_do() -> None:
    """With the number that it names, four of five comparisons find a difference of the size that was seen."""
    generator = np.random.default_rng(3)

    def draw(seeds: int) -> np.ndarray:
        shift = generator.normal(0, 0.05, (seeds, 1))
        return 0.05 + shift + generator.normal(0, 0.02, (1, 100)) + generator.normal(0, 0.1, (seeds, 100))

    needed = compare_over_seeds(draw(400), 1, has_same_problems=True).seeds_needed  # variances known well
    assert needed is not None
    assert 8 <= needed <= 14
    found = [compare_over_seeds(draw(needed), 1, has_same_problems=True).finding() for _ in range(300)]
    assert found.count(Finding.BETTER) / 300 == pytest.approx(0.8, abs=0.08)


def test_no_number_of_seeds_makes_up_for_few_problems() -> None:
    differences = 0.02 + np.tile(np.array([-0.5, 0.5, 0.1, -0.1]), (3, 1)) + np.linspace(0, 0.01, 12).reshape(3, 4)
    made = compare_over_seeds(differences, 4, has_same_problems=True)
    assert made.finding() is Finding.UNDECIDED
    assert made.seeds_needed is None


def test_where_nothing_varies_nothing_is_decided() -> None:
    made = compare_over_seeds(np.full((3, 10), 0.5), 4, has_same_problems=True)
    assert made.finding() is Finding.UNDECIDED
    assert made.p_value == 1.0


def test_a_corrected_p_value_has_to_agree() -> None:
    made = compare_over_seeds(np.random.default_rng(0).normal(0.3, 0.1, (4, 50)), 1, has_same_problems=True)
    assert made.finding() is Finding.BETTER
    assert made.finding(0.06) is Finding.UNDECIDED


@pytest.mark.parametrize("shape", [(1, 5), (5, 1)])
def test_one_seed_or_one_problem_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="two seeds and two problems at least"):
        compare_over_seeds(np.zeros(shape), 1, has_same_problems=True)
