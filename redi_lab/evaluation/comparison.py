"""Is one run better than another on the same problems? A difference, its uncertainty, and a finding in words.

    comparison = compare(redi, sft)  # verdicts of shape (problems, samples), row i the same problem in both
    comparison.finding()             # better, worse or undecided
    explain(comparison)              # the numbers in a sentence, and, if undecided, what would decide it
    holm([c.p_value for c in sweep]) # before the winner of a sweep is announced

Problems are the unit: a finding speaks of problems like these, and of the very weights that were compared. Of another
training, on other problems of the kind, speaks what several seeds of both kinds differ by:

    comparison = compare_over_seeds(differences, num_samples, has_same_problems=True)  # a row for each seed

docs/statistics.md says what each number means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import final

import numpy as np
from scipy import special

from redi_lab.evaluation.metrics import (
    CONFIDENCE,
    Estimate,
    Values,
    Verdicts,
    mean_difference,
    paired_difference,
    t_quantile,
)

POWER = 0.8
_DRAWS = 9_999
_MOST_SEEDS = 1000


@final
class Finding(StrEnum):
    """What a comparison says of the new run."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"


@final
@dataclass(frozen=True, slots=True)
class Comparison:
    """The new run against the old one on the same problems.

    Attributes:
        difference: Difference of pass@1, new − old, with its 95 % interval over problems.
        p_value: Two-sided, see `exact_test`.
        detectable: The smallest true difference that as many problems and samples find four times out of five; None
            where the difference is the same on every problem, so that its spread is unknown.
        problems_needed: Problems, at as many samples, that would find a true difference of the observed size four
            times out of five; None where `detectable` is, and where the observed difference is 0.
        samples_needed: Samples of each of these problems in both runs that would; None likewise, where a run has one
            sample of each problem, and where no number of samples would.
    """

    difference: Estimate
    p_value: float
    detectable: float | None = None
    problems_needed: int | None = None
    samples_needed: int | None = None

    def finding(self, adjusted_p: float | None = None) -> Finding:
        """The verdict: decided where the exact test and the interval both say so.

        Args:
            adjusted_p: The p-value after a correction for several comparisons; by default the comparison's own.
        """
        return _finding(self.difference, self.p_value if adjusted_p is None else adjusted_p)


def _finding(difference: Estimate, p_value: float) -> Finding:
    if p_value > 1 - CONFIDENCE or difference.ci_low <= 0 <= difference.ci_high:
        return Finding.UNDECIDED
    return Finding.BETTER if difference.value > 0 else Finding.WORSE


def compare(new: Verdicts, old: Verdicts) -> Comparison:
    """Compare two runs by `exact_test` and a t-interval over the differences of problems.

    A run with more samples of each problem than the other is compared by its first ones, as many as the other has:
    swapping whole problems is a symmetry between equal numbers of samples only.

    Args:
        new: Verdicts, shape (problems, samples of the new run); row i is the same problem in both.
        old: Verdicts, shape (problems, samples of the old run).

    Raises:
        ValueError: The numbers of problems differ, or a matrix is empty.
    """
    num_samples = min(new.shape[1], old.shape[1])
    new, old = new[:, :num_samples], old[:, :num_samples]
    difference, p_value = paired_difference(new, old), exact_test(new, old)
    per_problem = new.mean(axis=1) - old.mean(axis=1)
    count = len(per_problem)
    variance = float(per_problem.var(ddof=1)) if count > 1 else 0.0
    if variance < 1e-12:
        return Comparison(difference, p_value)
    quantile = t_quantile(max(count - 1, 1)) + t_quantile(max(count - 1, 1), POWER)
    # The variance that the mean may have for a difference of the observed size to be found.
    target = (difference.value / quantile) ** 2
    of_a_sample = _variance_of_a_sample(new) + _variance_of_a_sample(old)
    room = count * target - max(0.0, variance - of_a_sample / num_samples)
    return Comparison(
        difference,
        p_value,
        detectable=quantile * math.sqrt(variance / count),
        problems_needed=math.ceil(variance / target) if target else None,
        samples_needed=math.ceil(of_a_sample / room) if room > 0 and math.isfinite(of_a_sample) else None,
    )


def exact_test(new: Verdicts, old: Verdicts) -> float:
    """Two-sided exact p-value: how often would the difference be as large if the runs were interchangeable?

    All 2ⁿ ways to swap the two runs on whole problems are counted by convolution, so nothing is drawn at random; with
    one sample of each problem it is McNemar's test.

    Args:
        new: Verdicts, shape (problems, samples).
        old: Verdicts, same shape.
    """
    gaps = np.abs(new.sum(axis=1) - old.sum(axis=1))
    probabilities = np.ones(1)  # of the sum of the gaps with all signs, from −Σ to Σ in steps of 2
    for gap in gaps:
        kernel = np.zeros(gap + 1)
        kernel[0] += 0.5
        kernel[-1] += 0.5
        probabilities = np.convolve(probabilities, kernel)
    sums = 2 * np.arange(len(probabilities)) - gaps.sum()
    observed = abs(int(new.sum()) - int(old.sum()))
    return min(1.0, float(probabilities[np.abs(sums) >= observed].sum()))


def swap_test(strata: Sequence[Values]) -> float:
    """`exact_test` for what is no count: pass@k, and the average over benchmarks, whose problems are swapped in each.

    Ways to swap are drawn, always the same ones, and the data count as one of them: so the test keeps its level, and
    its p-value is not below 1/10,000 (Phipson and Smyth 2010, "Permutation P-values Should Never Be Zero").

    Args:
        strata: For each benchmark what the runs differ by on each problem; their means are averaged.
    """
    generator, sums = np.random.default_rng(0), np.zeros(_DRAWS)
    for differences in strata:
        for size, count in zip(*np.unique(np.abs(differences).round(12), return_counts=True), strict=True):
            sums += size * (2 * generator.binomial(count, 0.5, _DRAWS) - count) / len(differences)
    observed = abs(sum(float(differences.mean()) for differences in strata))
    return float(1 + np.count_nonzero(np.abs(sums) >= observed - 1e-9)) / (1 + _DRAWS)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that the chance of any false finding among all stays at the level.

    Source: Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    count, order = len(p_values), np.argsort(p_values)
    adjusted = np.empty(count)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(np.sort(p_values) * (count - np.arange(count))))
    return [float(value) for value in adjusted]


def explain(comparison: Comparison, new: str, old: str, adjusted_p: float | None = None) -> str:
    """The finding as text: one sentence, and if it is undecided a second one on what would decide it.

    Args:
        comparison: The numbers.
        new: Name of the new run.
        old: Name of the old run.
        adjusted_p: The p-value after a correction for several comparisons, if there was one.
    """
    d, finding = comparison.difference, comparison.finding(adjusted_p)
    relation = "not told apart from" if finding is Finding.UNDECIDED else f"{finding} than"
    p_value = f"exact p = {comparison.p_value:.2g}" + ("" if adjusted_p is None else f", adjusted {adjusted_p:.2g}")
    sentence = (
        f"{new} is {relation} {old}: {d.value:+.3f} pass@1 (95 % CI {d.ci_low:+.3f} to {d.ci_high:+.3f}, {p_value},"
        f" paired over the same {d.num_problems} problems)"
    )
    return sentence if finding is not Finding.UNDECIDED else f"{sentence}. {_what_would_decide(comparison)}"


def _what_would_decide(comparison: Comparison) -> str:
    count = comparison.difference.num_problems
    if comparison.detectable is None:
        return "The difference is the same on every problem, so it says nothing about other problems."
    found = f"{count} problems find a true difference of {comparison.detectable:.3f} four times out of five"
    if comparison.problems_needed is None:
        return f"{found}; the observed one is 0."
    if comparison.difference.num_samples == 1:
        samples = "draw two samples or more in both runs to learn whether more samples would help"
    elif comparison.samples_needed is not None:
        samples = f"so would {comparison.samples_needed} samples of each of these problems in both runs"
    else:
        samples = "no number of samples would, because the variance between problems alone is too large"
    return f"{found}; one of the observed size takes {comparison.problems_needed} problems; {samples}."


def _variance_of_a_sample(correct: Verdicts) -> float:
    """Unbiased variance of one sample around its problem's accuracy, averaged over problems; infinite if unknown."""
    num_samples = correct.shape[1]
    if num_samples == 1:
        return math.inf
    rates = correct.mean(axis=1)
    return float((rates * (1 - rates)).mean() * num_samples / (num_samples - 1))


@final
@dataclass(frozen=True, slots=True)
class SeedComparison:
    """What trainings of two kinds differ by.

    Attributes:
        estimate: the mean over seeds and problems, with its 95 % interval over both.
        p_value: two-sided, of the same t statistic.
        num_seeds: of each kind.
        seed_deviation: standard deviation of the true difference between seeds; None where seeds had problems of their
            own, whose share in it is not known.
        seeds_needed: seeds that would find a true difference of the observed size four times out of five, on as many
            problems; None where no number up to 1,000 would, or nothing varies.
    """

    estimate: Estimate
    p_value: float
    num_seeds: int
    seed_deviation: float | None
    seeds_needed: int | None

    def finding(self, adjusted_p: float | None = None) -> Finding:
        """The verdict; with a p-value that was corrected for several comparisons, that one has to agree."""
        return _finding(self.estimate, adjusted_p or 0.0)


def compare_over_seeds(differences: Values, num_samples: int, *, has_same_problems: bool) -> SeedComparison:
    """Compare two kinds of training, seed by seed and problem by problem.

    With the same problems for all seeds, seeds and problems are crossed random effects: with the mean squares of seeds,
    problems and what is left, the mean's variance is (MS_s + MS_p − MS_e)/(S·P), and its degrees of freedom are
    Satterthwaite's; a mean square below MS_e counts as that, which errs on the wide side. With problems of their own,
    the seeds' means are independent, and their spread holds that of the problems.
    Source: Cornfield and Tukey 1956, "Average Values of Mean Squares in Factorials"; Satterthwaite 1946.

    Args:
        differences: shape (seeds, problems), what a score of a problem differs by.
        num_samples: of each problem in each run.
        has_same_problems: whether column i is the same problem for all seeds.

    Raises:
        ValueError: there are fewer than two seeds, or one problem for all of them.
    """
    seeds, problems = differences.shape
    if seeds < 2 or (has_same_problems and problems < 2):
        raise ValueError(f"compare_over_seeds: two seeds and two problems at least, got {seeds} and {problems}")
    parts = mean_squares(differences) if has_same_problems else (differences.mean(axis=1).var(ddof=1) * problems,)
    variance, freedom = _variance_of_the_mean(parts, seeds, problems)
    value = float(differences.mean())
    if variance < 1e-15:
        return SeedComparison(mean_difference(differences.mean(axis=1), num_samples), 1.0, seeds, None, None)
    half = t_quantile(freedom) * math.sqrt(variance)
    count = problems if has_same_problems else seeds * problems
    estimate = Estimate(value, max(-1.0, value - half), min(1.0, value + half), None, count, num_samples)
    p_value = float(2 * special.stdtr(freedom, -abs(value) / math.sqrt(variance)))
    deviation = math.sqrt(max(0.0, parts[0] - parts[-1]) / problems) if has_same_problems else None
    return SeedComparison(estimate, p_value, seeds, deviation, _seeds_needed(value, parts, seeds, problems))


def mean_squares(differences: Values) -> tuple[float, float, float]:
    """Of rows (seeds), of columns (problems), and of what neither explains."""
    (seeds, problems), mean = differences.shape, differences.mean()
    of_seeds, of_problems = differences.mean(axis=1, keepdims=True), differences.mean(axis=0, keepdims=True)
    left = np.square(differences - of_seeds - of_problems + mean).sum() / ((seeds - 1) * (problems - 1))
    return float(problems * of_seeds.var(ddof=1)), float(seeds * of_problems.var(ddof=1)), float(left)


def _variance_of_the_mean(parts: tuple[float, ...], seeds: int, problems: int) -> tuple[float, float]:
    """And its degrees of freedom."""
    if len(parts) == 1:
        return float(parts[0]) / (seeds * problems), seeds - 1
    left = parts[2]
    of_seeds, of_problems = max(parts[0], left), max(parts[1], left)
    total = of_seeds + of_problems - left
    spread = of_seeds**2 / (seeds - 1) + of_problems**2 / (problems - 1) + left**2 / ((seeds - 1) * (problems - 1))
    return total / (seeds * problems), max(1.0, total**2 / spread) if spread else 1.0


def _seeds_needed(value: float, parts: tuple[float, ...], seeds: int, problems: int) -> int | None:
    tried = np.arange(2, _MOST_SEEDS + 1)
    if len(parts) == 1:
        variances = parts[0] / problems / tried
    else:
        of_seeds, of_problems = (max(0.0, part - parts[2]) for part in parts[:2])
        variances = (of_seeds / problems + parts[2] / problems) / tried + of_problems / seeds / problems
    quantiles = special.stdtrit(tried - 1, (1 + CONFIDENCE) / 2) + special.stdtrit(tried - 1, POWER)
    enough = np.flatnonzero(quantiles * np.sqrt(variances) <= abs(value))
    return int(tried[enough[0]]) if len(enough) else None
