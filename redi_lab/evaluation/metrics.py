"""Scores with their uncertainty: numpy arrays in, small records out.

`correct` has shape (problems, samples): whether sample j of problem i was graded right. Unknown verdicts count as not
right; their share is reported beside the score. The unit of uncertainty is the problem: samples of one problem share
its difficulty, so treating them as independent would make every interval too narrow. docs/statistics.md says how often
the intervals cover.

    pass_at_1(correct)               # accuracy, the paper's SEM, a 95 % confidence interval over problems
    pass_at_k(correct, 4)            # chance that at least one of 4 samples is right
    average([math500, aime24])       # mean over benchmarks
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from scipy import special

Verdicts = NDArray[np.bool_]
Values = NDArray[np.float64]
CONFIDENCE = 0.95


@final
@dataclass(frozen=True, slots=True)
class Estimate:
    """A score with its 95 % confidence interval.

    Attributes:
        value: The point estimate.
        ci_low: Lower end of the interval over problems.
        ci_high: Upper end of it.
        sem: The paper's standard error over samples; None where the score has none.
        num_problems: Problems that the score rests on.
        num_samples: Samples of each problem.
    """

    value: float
    ci_low: float
    ci_high: float
    sem: float | None
    num_problems: int
    num_samples: int


def pass_at_1(correct: Verdicts) -> Estimate:
    """Mean accuracy over problems and samples.

    `sem` is the paper's: with P_j the accuracy that uses only the j-th sample of every problem,
    SEM = std(P_1 … P_k) / √k, with the sample standard deviation (k − 1), because the k accuracies are a sample whose
    spread is estimated around its own mean; the population form would be too small by √((k − 1)/k). It speaks of
    sampling noise on these very problems. The interval speaks of other problems of the same kind, see `interval`.

    Args:
        correct: Verdicts, shape (problems, samples).

    Raises:
        ValueError: The matrix is empty or not two-dimensional.
    """
    correct = _checked(correct)
    num_problems, num_samples = correct.shape
    accuracies = correct.mean(axis=0)
    sem = float(accuracies.std(ddof=1) / math.sqrt(num_samples)) if num_samples > 1 else None
    low, high = map(float, interval(correct.mean(axis=1)))
    return Estimate(float(correct.mean()), low, high, sem, num_problems, num_samples)


def pass_at_k(correct: Verdicts, k: int) -> Estimate:
    """Mean over problems of `solved_within`.

    Raises:
        ValueError: k is out of range, or the matrix is empty.
    """
    return _estimate(solved_within(correct, k), correct.shape[1])


def solved_within(correct: Verdicts, k: int) -> Values:
    """Unbiased estimate of each problem's chance that one of k samples is right, 1 − C(n−c, k)/C(n, k).

    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", Eq. 1.

    Args:
        correct: Verdicts, shape (problems, samples).
        k: Number of samples allowed, 1 ≤ k ≤ samples.

    Returns:
        Shape (problems,).

    Raises:
        ValueError: k is out of range, or the matrix is empty.
    """
    correct = _checked(correct)
    num_samples = correct.shape[1]
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass_at_k: k must lie between 1 and the {num_samples} samples, got {k}")
    total = math.comb(num_samples, k)
    # Python integers: the binomials of 64 samples overflow floats' exact range.
    by_count = np.array([1 - math.comb(num_samples - c, k) / total for c in range(num_samples + 1)])
    values: Values = by_count[correct.sum(axis=1)]
    return values


def average(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of scores on several benchmarks, each counted once, as in the paper's tables.

    The benchmarks are fixed, not a sample of benchmarks: only problems and samples vary, independently of one another.
    The interval recovers each benchmark's variance from its own, possibly lopsided, interval: with h_b the distance
    from the score of benchmark b to its limit, the distance of the mean of B is √Σh_b² / B on either side.
    Source: Zou and Donner 2008, "Construction of confidence limits about effect measures" (MOVER).

    Args:
        estimates: One or more.

    Returns:
        The mean; `num_problems` is their sum, `num_samples` the smallest.

    Raises:
        ValueError: There is no estimate.
    """
    if not estimates:
        raise ValueError("average: there is no estimate to average")
    count = len(estimates)
    value = sum(e.value for e in estimates) / count
    below = math.hypot(*(e.value - e.ci_low for e in estimates)) / count
    above = math.hypot(*(e.ci_high - e.value for e in estimates)) / count
    sems = [e.sem for e in estimates if e.sem is not None]
    sem = math.hypot(*sems) / count if len(sems) == count else None
    num_problems, num_samples = sum(e.num_problems for e in estimates), min(e.num_samples for e in estimates)
    return Estimate(value, value - below, value + above, sem, num_problems, num_samples)


def ratio(hits: Values, counts: Values, num_samples: int) -> Estimate | None:
    """Σ hits / Σ counts with its interval over problems, such as the share of right answers that were given up.

    Args:
        hits: What was counted on each problem, between 0 and its count.
        counts: Out of how many; problems with 0 say nothing.
        num_samples: Of each problem.

    Returns:
        The ratio; `num_problems` is of those with a count. None where there is none.
    """
    known = counts > 0
    if not known.any():
        return None
    rates, weights = hits[known] / counts[known], counts[known] / counts[known].mean()
    low, high = map(float, interval(rates, weights))
    return Estimate(float(hits.sum() / counts.sum()), low, high, None, int(known.sum()), num_samples)


def paired_difference(a: Verdicts, b: Verdicts) -> Estimate:
    """Mean over problems of accuracy(a) − accuracy(b), see `mean_difference`.

    Args:
        a: Verdicts, shape (problems, samples of a); row i is the same problem in both.
        b: Verdicts, shape (problems, samples of b).

    Returns:
        The difference in [−1, 1]; `num_samples` is the smaller of the two.

    Raises:
        ValueError: The numbers of problems differ, or a matrix is empty.
    """
    a, b = _checked(a), _checked(b)
    if len(a) != len(b):
        raise ValueError(f"paired_difference: both runs must cover the same problems, got {len(a)} and {len(b)}")
    return mean_difference(a.mean(axis=1) - b.mean(axis=1), min(a.shape[1], b.shape[1]))


def mean_difference(differences: Values, num_samples: int) -> Estimate:
    """Mean of what two runs differ by on each problem, with a t-interval.

    Pairing removes the spread of difficulty that both runs share. Where no two problems differ in their difference,
    the spread cannot be estimated; the half-width is then Wilson's bound for an event never seen in n problems.

    Args:
        differences: One in [−1, 1] for each problem.
        num_samples: Of each problem in each run.
    """
    count = len(differences)
    spread = float(differences.std(ddof=1)) if count > 1 else 0.0
    quantile = t_quantile(max(count - 1, 1))
    unseen = quantile**2 / (count + quantile**2)
    half_width = quantile * spread / math.sqrt(count) if spread > 1e-12 else unseen
    value = float(differences.mean())
    return Estimate(value, max(-1.0, value - half_width), min(1.0, value + half_width), None, count, num_samples)


def _checked(correct: Verdicts) -> Verdicts:
    matrix: NDArray[Any] = np.asarray(correct)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"verdicts must be a non-empty matrix (problems, samples), got shape {matrix.shape}")
    if matrix.dtype != np.bool_:
        raise ValueError(f"verdicts must be booleans, got {matrix.dtype}: map unknown to False first")
    return matrix


def _estimate(values: Values, num_samples: int) -> Estimate:
    low, high = map(float, interval(values))
    return Estimate(float(values.mean()), low, high, None, len(values), num_samples)


def interval(values: Values, weights: Values | float = 1.0) -> tuple[Values, Values]:
    """Interval for the population mean of per-problem scores in [0, 1], seen through the problems alone.

    The posterior of the mean under a Dirichlet prior on the distribution of scores, with half a problem at 0 and half
    a problem at 1, is fitted by the Beta distribution with its mean and variance. Scores of only 0 and 1 have exactly
    Jeffreys' interval; scores that spread less have that of a larger effective number of problems; and where all
    problems agree, the two halves keep the interval from closing.
    Sources: Rubin 1981, "The Bayesian Bootstrap"; Brown, Cai and DasGupta 2001, "Interval Estimation for a Binomial
    Proportion" (Jeffreys' interval, and its limit set to 0 or 1 when nothing else was seen).

    Args:
        values: Scores, shape (..., problems).
        weights: Of the problems in the mean, with mean 1; a ratio of sums is the mean of ratios with the denominators
            as weights, and its variance the linearised one.

    Returns:
        Lower and upper ends, each of shape (...).
    """
    mean, weight = (weights * values).mean(axis=-1), values.shape[-1] + 1
    centre = ((weights * values).sum(axis=-1) + 0.5) / weight
    squares = np.square(weights * (values - centre[..., None])).sum(axis=-1)
    spread = squares + 0.5 * centre**2 + 0.5 * (1 - centre) ** 2
    effective = centre * (1 - centre) * weight * (weight + 1) / spread - 1
    low, high = (
        special.betaincinv(centre * effective, (1 - centre) * effective, (1 + sign * CONFIDENCE) / 2)
        for sign in (-1, 1)
    )
    return np.minimum(mean, low), np.maximum(mean, high)


def t_quantile(degrees: float, probability: float = (1 + CONFIDENCE) / 2) -> float:
    """Quantile of Student's t, by default the one of a two-sided 95 % interval.

    Args:
        degrees: Degrees of freedom, at least 1.
        probability: Chance of a smaller value.
    """
    return float(special.stdtrit(degrees, probability))
