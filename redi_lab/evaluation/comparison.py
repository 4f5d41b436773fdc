"""Is one run better than another on the same problems? A difference, its uncertainty, and a finding in words.

    comparison = compare(redi, sft)  # verdicts of shape (problems, samples), row i the same problem in both
    comparison.finding()             # better, worse or undecided
    explain(comparison)              # the numbers in a sentence, and, if undecided, what would decide it
    holm([c.p_value for c in sweep]) # before the winner of a sweep is announced

Problems are the unit: a finding speaks of problems like these. docs/statistics.md says what each number means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import final

import numpy as np
from numpy.typing import NDArray

from redi_lab.evaluation.metrics import CONFIDENCE, Estimate, Verdicts, paired_difference, t_quantile

POWER = 0.8
NUM_RESAMPLES = 10_000


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
        difference: Of pass@1, new − old, with its t-interval over problems.
        bootstrap_low: Lower end of the paired bootstrap's 95 % interval.
        bootstrap_high: Upper end of it.
        p_value: Of the exact two-sided test, see `exact_p_value`.
        detectable: The smallest true difference that as many problems and samples find four times out of five; None
            where the difference is the same on every problem, so that its spread is unknown.
        sampling_share: Share of the variance of the difference that more samples shrink; None as above, and where a
            run has one sample of each problem.
        problems_needed: Problems, at as many samples, that would find a true difference of the observed size four
            times out of five; None where `detectable` is, and where the observed difference is 0.
        samples_needed: Samples of each of these problems in both runs that would; None likewise, where
            `sampling_share` is, and where no number of samples would.
    """

    difference: Estimate
    bootstrap_low: float
    bootstrap_high: float
    p_value: float
    detectable: float | None = None
    sampling_share: float | None = None
    problems_needed: int | None = None
    samples_needed: int | None = None

    def finding(self, adjusted_p: float | None = None) -> Finding:
        """The verdict: decided where the exact test and the interval both say so.

        Args:
            adjusted_p: The p-value after a correction for several comparisons; by default the comparison's own.
        """
        p_value = self.p_value if adjusted_p is None else adjusted_p
        if p_value > 1 - CONFIDENCE or self.difference.ci_low <= 0 <= self.difference.ci_high:
            return Finding.UNDECIDED
        return Finding.BETTER if self.difference.value > 0 else Finding.WORSE


def compare(new: Verdicts, old: Verdicts) -> Comparison:
    """Compare two runs.

    Args:
        new: Verdicts, shape (problems, samples of the new run); row i is the same problem in both.
        old: Verdicts, shape (problems, samples of the old run).

    Raises:
        ValueError: The numbers of problems differ, or a matrix is empty.
    """
    difference = paired_difference(new, old)
    per_problem = new.mean(axis=1) - old.mean(axis=1)
    low, high = _bootstrap(per_problem)
    comparison = Comparison(difference, low, high, exact_p_value(new, old))
    count = len(per_problem)
    variance = float(per_problem.var(ddof=1)) if count > 1 else 0.0
    if variance < 1e-12:
        return comparison
    quantile = t_quantile(count - 1) + t_quantile(count - 1, POWER)
    # The variance that the mean may have for a difference of the observed size to be found.
    target = (difference.value / quantile) ** 2
    by_sample = _variance_of_a_sample(new), _variance_of_a_sample(old)
    sampling = by_sample[0] / new.shape[1] + by_sample[1] / old.shape[1]
    room = count * target - max(0.0, variance - sampling)
    return Comparison(
        difference,
        low,
        high,
        comparison.p_value,
        detectable=quantile * math.sqrt(variance / count),
        sampling_share=min(1.0, sampling / variance) if math.isfinite(sampling) else None,
        problems_needed=math.ceil(variance / target) if target else None,
        samples_needed=math.ceil(sum(by_sample) / room) if room > 0 and math.isfinite(sampling) else None,
    )


def exact_p_value(new: Verdicts, old: Verdicts) -> float:
    """Two-sided exact permutation test: how often would the difference be as large if the runs were interchangeable?

    All 2ⁿ ways to swap the two runs on whole problems are counted, by convolution, so nothing is drawn at random. With
    one sample of each problem this is McNemar's exact test.

    Args:
        new: Verdicts, shape (problems, samples of the new run).
        old: Verdicts, shape (problems, samples of the old run).
    """
    scale = math.lcm(new.shape[1], old.shape[1])
    differences = new.sum(axis=1) * (scale // new.shape[1]) - old.sum(axis=1) * (scale // old.shape[1])
    sizes = np.abs(differences[differences != 0])
    if not len(sizes):
        return 1.0
    sizes = sizes // np.gcd.reduce(sizes)
    total = int(sizes.sum())
    observed = abs(int(differences.sum())) // int(np.gcd.reduce(np.abs(differences)))
    # probabilities[s]: that the problems where the sign is positive have sizes that add up to s.
    probabilities = np.zeros(total + 1)
    probabilities[0] = 1.0
    for size in sizes:
        probabilities[size:] += probabilities[:-size]  # reads what was there before: numpy buffers the overlap
        probabilities /= 2
    at_least = probabilities[2 * np.arange(total + 1) - total >= observed].sum()
    return min(1.0, 2 * float(at_least)) if observed else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that the chance of any false finding among all stays at the level.

    Source: Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".
    """
    count, order = len(p_values), np.argsort(p_values)
    steps = np.maximum.accumulate(np.sort(p_values) * (count - np.arange(count)))
    return _unsorted(np.minimum(1.0, steps), order)


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values so that the expected share of false ones among the findings stays at the level.

    Source: Benjamini and Hochberg 1995, "Controlling the False Discovery Rate".
    """
    count, order = len(p_values), np.argsort(p_values)
    ratios = np.sort(p_values) * count / np.arange(1, count + 1)
    return _unsorted(np.minimum.accumulate(ratios[::-1])[::-1], order)


def explain(comparison: Comparison, new: str, old: str, adjusted_p: float | None = None) -> str:
    """The finding as text: one sentence, and a second one on what would decide it, where nothing does yet.

    Args:
        comparison: What to tell.
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
        return "They differ alike on every problem, which says nothing of other problems."
    found = f"{count} problems find a true difference of {comparison.detectable:.3f} four times out of five"
    if comparison.problems_needed is None:
        return f"{found}; the observed one is 0."
    if comparison.sampling_share is None:
        samples = "draw two samples or more in both runs to learn whether more samples would help"
    elif comparison.samples_needed is not None:
        samples = f"so would {comparison.samples_needed} samples of each of these problems in both runs"
    else:
        samples = (
            f"no number of samples would: they shrink only {comparison.sampling_share:.0%} of the variance, the rest is"
            " between problems"
        )
    return f"{found}; one of the observed size takes {comparison.problems_needed} problems; {samples}."


def _bootstrap(per_problem: NDArray[np.float64]) -> tuple[float, float]:
    """Percentile interval of the mean over resampled problems; only how often each value is drawn matters."""
    values, counts = np.unique(per_problem, return_counts=True)
    generator = np.random.default_rng(0)  # fixed: the same verdicts always have the same interval
    drawn = generator.multinomial(len(per_problem), counts / len(per_problem), size=NUM_RESAMPLES)
    means = drawn @ values / len(per_problem)
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return float(low), float(high)


def _variance_of_a_sample(correct: Verdicts) -> float:
    """Unbiased variance of one sample around its problem's accuracy, averaged over problems; infinite if unknown."""
    num_samples = correct.shape[1]
    if num_samples == 1:
        return math.inf
    rates = correct.mean(axis=1)
    return float((rates * (1 - rates)).mean() * num_samples / (num_samples - 1))


def _unsorted(values: NDArray[np.float64], order: NDArray[np.intp]) -> list[float]:
    restored = np.empty_like(values)
    restored[order] = values
    return [float(value) for value in restored]
