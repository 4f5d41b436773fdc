from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from redi_lab.evaluation.comparison import Finding, compare, exact_test, explain, holm


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
    assert exact_test(new, old)[0] == pytest.approx(2 * 67 / 2048)
    assert exact_test(old, new)[0] == pytest.approx(2 * 67 / 2048)
    assert exact_test(new, old)[0] == pytest.approx(stats.binomtest(9, 11).pvalue)


def test_the_exact_test_counts_every_swap() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        new, old = generator.random((9, 4)) < 0.6, generator.random((9, 4)) < 0.4
        differences = new.mean(axis=1) - old.mean(axis=1)
        sums = np.array([np.dot(signs, differences) for signs in product((-1, 1), repeat=9)])
        naive = np.mean(np.abs(sums) >= abs(differences.sum()) - 1e-9)
        assert exact_test(new, old)[0] == pytest.approx(naive)


def test_unequal_numbers_by_hand() -> None:
    """New 1 of 1 twice, old 0 of 2 twice: each problem has 1 right of 3, the new run's with probability 1/3.

    0, 1 or 2 of the new ones are right with 4/9, 4/9, 1/9, and the differences are −1/2, 1/4 and 1.
    """
    new, old = np.ones((2, 1), dtype=bool), np.zeros((2, 2), dtype=bool)
    assert exact_test(new, old) == pytest.approx((1 / 9, 1.0))
    assert exact_test(~new, old) == (1.0, 0.0)
    half = np.array([[True], [False]])
    assert exact_test(half, old[:, :1])[0] == 1.0
    assert exact_test(half, np.array([[False, False], [True, False]]))[0] == pytest.approx(1.0)


@pytest.mark.parametrize(("num_new", "num_old"), [(1, 3), (3, 1), (2, 3)])
def test_unequal_numbers_count_every_exchange_of_samples(num_new: int, num_old: int) -> None:
    generator = np.random.default_rng(0)
    for _ in range(10):
        both = generator.random((4, num_new + num_old)) < generator.uniform(0.2, 0.8, size=(4, 1))
        ways = list(combinations(range(num_new + num_old), num_new))
        is_new = np.array([[place in way for place in range(num_new + num_old)] for way in ways])
        rates = is_new / num_new - ~is_new / num_old  # of a sample in the difference
        sums = [sum(problem) / 4 for problem in product(*(both @ rates.T))]
        p_value, largest = exact_test(both[:, :num_new], both[:, num_new:])
        observed = abs(both[:, :num_new].mean() - both[:, num_new:].mean())
        assert p_value == pytest.approx(np.mean(np.abs(sums) >= observed - 1e-9))
        assert np.mean(np.abs(sums) >= largest - 1e-9) > 0.05 >= np.mean(np.abs(sums) >= largest + 1e-9)


KINDS = {
    "hard": (0.05, 2.0),
    "easy": (0.95, 2.0),
    "easy, alike": (0.95, 1e6),
    "mixed": (0.5, 0.5),
    "middling": (0.5, 2),
}


@pytest.mark.parametrize(("num_problems", "num_pairs"), [(30, 400), (272, 60)])
@pytest.mark.parametrize("num_new", [1, 2, 4])
def test_one_model_is_seldom_called_different_from_itself(num_new: int, num_problems: int, num_pairs: int) -> None:
    """Against 16 samples, at most 5.5 % of the pairs, up to what chance does once in a thousand times."""
    generator = np.random.default_rng([num_new, num_problems])
    for mean, spread in KINDS.values():
        a, b = mean * spread, (1 - mean) * spread
        found = 0
        for _ in range(num_pairs):
            verdicts = generator.random((num_problems, num_new + 16)) < generator.beta(a, b, size=(num_problems, 1))
            found += compare(verdicts[:, :num_new], verdicts[:, num_new:]).finding() is not Finding.UNDECIDED
        assert found <= stats.binom.ppf(0.999, num_pairs, 0.055), (mean, spread)


def test_interval_and_p_value_of_unequal_numbers_agree() -> None:
    generator = np.random.default_rng(8)
    decided = 0
    for num_new, gain in product((1, 3, 20), (0.0, 0.1, 0.2)):
        for _ in range(40):
            base = generator.beta(1, 1, size=(25, 1)) * (1 - gain)
            new, old = generator.random((25, num_new)) < base + gain, generator.random((25, 16)) < base
            c = compare(new, old)
            assert (c.p_value > 0.05) == (c.difference.ci_low <= 0 <= c.difference.ci_high)
            decided += c.finding() is not Finding.UNDECIDED
    assert decided > 60


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_the_interval_of_unequal_numbers_covers_the_difference(noise: float) -> None:
    """Also where a run is right everywhere by chance, and where models differ from problem to problem."""
    generator = np.random.default_rng(9)
    covered = 0
    for _ in range(300):
        base = generator.uniform(0.3, 0.6, size=(40, 1))
        new = generator.random((40, 1)) < base + 0.1 + noise * generator.choice([-1.0, 1.0], size=(40, 1))
        d = compare(new, generator.random((40, 16)) < base).difference
        covered += d.ci_low <= 0.1 <= d.ci_high
    assert covered >= 0.92 * 300


def test_more_samples_of_one_run_find_more() -> None:
    """2 against 16 finds what 2 against 2 finds, and more of it."""
    generator = np.random.default_rng(10)
    found = np.zeros(2)
    for _ in range(150):
        base = generator.beta(2, 2, size=(100, 1)) * 0.9
        new, old = generator.random((100, 2)) < base + 0.1, generator.random((100, 16)) < base
        found += [compare(new, other).finding() is Finding.BETTER for other in (old, old[:, :2])]
    assert found[0] >= found[1] + 15


def test_all_right_once_does_not_decide_against_a_model_that_nearly_is() -> None:
    """30 of 30 against 456 of 480 (95 %): the same model does that in about one case out of five."""
    old = np.ones((30, 16), dtype=bool)
    old.ravel()[::20] = False
    comparison = compare(np.ones((30, 1), dtype=bool), old)
    assert comparison.finding() is Finding.UNDECIDED
    assert comparison.difference.ci_low < 0 < comparison.difference.ci_high
    assert comparison.detectable is not None
    assert comparison.detectable > 0.08


def test_the_exact_test_of_large_runs_stays_exact() -> None:
    """600 problems that all got better: 2 · 2⁻⁶⁰⁰."""
    every, none = np.ones((600, 16), dtype=bool), np.zeros((600, 16), dtype=bool)
    assert exact_test(every, none)[0] == pytest.approx(2.0**-599)
    assert exact_test(every, every) == (1.0, 0.0)  # no swap changes anything


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
