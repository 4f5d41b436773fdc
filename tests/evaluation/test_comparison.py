from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from redi_lab.evaluation.comparison import Finding, compare, exact_test, explain, holm, swap_test


def runs(
    generator: np.random.Generator, gain: float, num_problems: int, num_samples: int, noise: float = 0.0
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Two runs whose accuracies differ by `gain` on average, and by ± `noise` more on each problem."""
    base = generator.uniform(0.3, 0.6, size=(num_problems, 1))
    moved = base + gain + noise * generator.choice([-1.0, 1.0], size=(num_problems, 1))
    return (
        generator.random((num_problems, num_samples)) < moved,
        generator.random((num_problems, num_samples)) < base,
    )


def test_with_one_sample_the_exact_test_is_mcnemars() -> None:
    """9 problems only new, 2 only old, 20 alike: twice P(Binomial(11, 1/2) ≥ 9) = 2·67/2048."""
    new = np.array([1] * 9 + [0] * 2 + [1] * 10 + [0] * 10, dtype=bool)[:, None]
    old = np.array([0] * 9 + [1] * 2 + [1] * 10 + [0] * 10, dtype=bool)[:, None]
    assert exact_test(new, old) == pytest.approx(2 * 67 / 2048)
    assert exact_test(old, new) == pytest.approx(2 * 67 / 2048)
    assert exact_test(new, old) == pytest.approx(stats.binomtest(9, 11).pvalue)


def test_the_exact_test_counts_every_swap() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        new, old = generator.random((9, 4)) < 0.6, generator.random((9, 4)) < 0.4
        differences = new.mean(axis=1) - old.mean(axis=1)
        sums = np.array([np.dot(signs, differences) for signs in product((-1, 1), repeat=9)])
        naive = np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-9)
        assert exact_test(new, old) == pytest.approx(naive)


def test_of_unequal_numbers_as_many_samples_are_compared() -> None:
    generator = np.random.default_rng(0)
    new, old = runs(generator, 0.2, 30, 16)
    assert compare(new[:, :2], old) == compare(new[:, :2], old[:, :2])
    assert compare(new, old[:, :1]) == compare(new[:, :1], old[:, :1])


def test_the_exact_test_of_large_runs_stays_exact() -> None:
    """600 problems that all got better: 2 · 2⁻⁶⁰⁰."""
    every, none = np.ones((600, 16), dtype=bool), np.zeros((600, 16), dtype=bool)
    assert exact_test(every, none) == pytest.approx(2.0**-599)
    assert exact_test(every, every) == 1.0  # no swap changes anything


def test_equal_runs_are_seldom_called_different() -> None:
    """500 pairs of equal runs: about 25 are found at 5 %; more than 41 would be once in a thousand times."""
    generator = np.random.default_rng(1)
    pairs = [runs(generator, 0.0, 40, 4, noise=0.2) for _ in range(500)]
    findings = [compare(new, old).finding() for new, old in pairs]
    assert sum(finding is not Finding.UNDECIDED for finding in findings) <= 41


def test_the_detectable_difference_is_found_four_times_out_of_five() -> None:
    """The planned size comes from one pair of runs; the power is measured on 300 others."""
    generator = np.random.default_rng(2)
    detectable = compare(*runs(generator, 0.1, 2000, 4)).detectable
    assert detectable is not None
    gain = detectable * np.sqrt(2000 / 100)
    found = [compare(*runs(generator, gain, 100, 4)).finding() is Finding.BETTER for _ in range(300)]
    assert 0.72 <= np.mean(found) <= 0.88


def test_the_interval_covers_the_difference() -> None:
    generator = np.random.default_rng(3)
    found = [compare(*runs(generator, 0.1, 100, 4, noise=0.1)).difference for _ in range(300)]
    assert np.mean([d.ci_low <= 0.1 <= d.ci_high for d in found]) >= 0.91


def test_more_samples_help_where_the_noise_is_theirs() -> None:
    """Equal problems, one accuracy each: nearly all variance is sampling, and the advised number does decide."""
    generator = np.random.default_rng(4)
    few = compare(*runs(generator, 0.05, 150, 2))
    assert few.finding() is Finding.UNDECIDED
    assert few.samples_needed is not None
    assert compare(*runs(generator, few.difference.value, 150, 2 * few.samples_needed)).finding() is Finding.BETTER


def test_more_samples_do_not_help_where_problems_disagree() -> None:
    generator = np.random.default_rng(5)
    comparison = compare(*runs(generator, 0.02, 60, 64, noise=0.28))
    assert comparison.finding() is Finding.UNDECIDED
    assert comparison.samples_needed is None
    assert comparison.problems_needed is not None
    assert comparison.problems_needed > 60
    assert "no number of samples would" in explain(comparison, "new", "old")


def test_one_sample_cannot_tell_its_noise() -> None:
    comparison = compare(*runs(np.random.default_rng(6), 0.02, 50, 1))
    assert comparison.samples_needed is None
    assert "draw two samples or more" in explain(comparison, "new", "old")


def test_words() -> None:
    good, bad = np.tile([[True], [True], [False]], (20, 2)), np.tile([[False], [True], [False]], (20, 2))
    better = compare(good, bad)
    assert explain(better, "REDI", "SFT").startswith("REDI is better than SFT: +0.333 pass@1 (95 % CI +0.211 to")
    assert explain(compare(bad, good), "SFT", "REDI").startswith("SFT is worse than REDI: -0.333")
    assert "is not told apart from SFT" in explain(better, "REDI", "SFT", adjusted_p=0.2)
    assert "adjusted 0.2" in explain(better, "REDI", "SFT", adjusted_p=0.2)
    assert "the observed one is 0" in explain(compare(*_mirrored()), "a", "b")


def _mirrored() -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    new = np.array([[True], [False]])
    return new, ~new


def test_runs_that_differ_alike_everywhere_say_nothing_of_other_problems() -> None:
    same = np.ones((4, 2), dtype=bool)
    comparison = compare(same, same)
    assert comparison.finding() is Finding.UNDECIDED
    assert comparison.detectable is None
    assert "the same on every problem" in explain(comparison, "a", "b")
    assert compare(np.ones((1, 2), dtype=bool), np.zeros((1, 2), dtype=bool)).finding() is Finding.UNDECIDED


def test_holm_by_hand() -> None:
    """Sorted 0.01, 0.02, 0.03, 0.2 of four: 0.04, 0.06, 0.06, 0.2."""
    assert holm([0.03, 0.01, 0.2, 0.02]) == pytest.approx([0.06, 0.04, 0.2, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]


def test_a_comparison_needs_both_the_test_and_the_interval() -> None:
    comparison = compare(*runs(np.random.default_rng(7), 0.3, 100, 4))
    assert comparison.finding() is Finding.BETTER
    assert comparison.finding(adjusted_p=0.051) is Finding.UNDECIDED


def test_drawn_swaps_agree_with_all_swaps() -> None:
    generator = np.random.default_rng(5)
    for chance in (0.4, 0.5, 0.6):
        new, old = generator.random((40, 4)) < chance, generator.random((40, 4)) < 0.4
        drawn = swap_test([new.mean(axis=1) - old.mean(axis=1)])
        assert drawn == pytest.approx(exact_test(new, old), abs=0.015)


def test_swaps_keep_their_level_over_benchmarks_of_unequal_size() -> None:
    """Interchangeable runs, 10 problems beside 200: about one in twenty is found different, not more."""
    generator = np.random.default_rng(6)

    def strata() -> list[np.ndarray]:
        return [generator.binomial(4, 0.5, n) / 4 - generator.binomial(4, 0.5, n) / 4 for n in (10, 200)]

    found = [swap_test(strata()) <= 0.05 for _ in range(150)]
    assert 0.01 < np.mean(found) < 0.1


def test_each_benchmark_counts_once() -> None:
    """All 8 problems of the small one better, the large one even: of 2⁸ swaps two are as extreme."""
    small, large = np.ones(8), np.zeros(500)
    assert swap_test([small, large]) == pytest.approx(2 / 2**8, abs=0.003)
    assert swap_test([large]) == 1.0
