"""Scores with their uncertainty, from a matrix of verdicts: numpy arrays in, small records out.

`correct` has shape (problems, samples): whether sample j of problem i was graded right. Unknown verdicts count as not
right; their share is reported beside the score. The unit of uncertainty is the problem: samples of one problem share
its difficulty, so treating them as independent would make every interval too narrow.

    pass_at_1(correct)     # accuracy, the paper's SEM, a 95 % confidence interval over problems
    pass_at_k(correct, 4)  # chance that at least one of 4 samples is right
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

Verdicts = NDArray[np.bool_]
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
    sampling noise on these very problems. The interval speaks of other problems of the same kind, see `_interval`.

    Args:
        correct: Verdicts, shape (problems, samples).

    Raises:
        ValueError: The matrix is empty or not two-dimensional.
    """
    correct = _checked(correct)
    num_problems, num_samples = correct.shape
    accuracies = correct.mean(axis=0)
    sem = float(accuracies.std(ddof=1) / math.sqrt(num_samples)) if num_samples > 1 else None
    low, high = _interval(correct.mean(axis=1), num_samples)
    return Estimate(float(correct.mean()), low, high, sem, num_problems, num_samples)


def pass_at_k(correct: Verdicts, k: int) -> Estimate:
    """Unbiased estimate of the chance that at least one of k samples is right, 1 − C(n−c, k)/C(n, k) per problem.

    Source: Chen et al. 2021, "Evaluating Large Language Models Trained on Code", Eq. 1.

    Args:
        correct: Verdicts, shape (problems, samples).
        k: Number of samples allowed, 1 ≤ k ≤ samples.

    Raises:
        ValueError: k is out of range, or the matrix is empty.
    """
    correct = _checked(correct)
    num_problems, num_samples = correct.shape
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass_at_k: k must lie between 1 and the {num_samples} samples, got {k}")
    total = math.comb(num_samples, k)
    # Python integers: the binomials of 64 samples overflow floats' exact range.
    by_count = np.array([1 - math.comb(num_samples - c, k) / total for c in range(num_samples + 1)])
    values = by_count[correct.sum(axis=1)]
    low, high = _interval(values, num_samples)
    return Estimate(float(values.mean()), low, high, None, num_problems, num_samples)


def paired_difference(a: Verdicts, b: Verdicts) -> Estimate:
    """Mean over problems of accuracy(a) − accuracy(b), with a t-interval over the per-problem differences.

    Pairing removes the spread of difficulty that both runs share. Where no two problems differ in their difference,
    the spread cannot be estimated; the half-width is then Wilson's bound for an event never seen in n problems.

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
    differences = a.mean(axis=1) - b.mean(axis=1)
    count = len(differences)
    spread = float(differences.std(ddof=1)) if count > 1 else 0.0
    quantile = t_quantile(max(count - 1, 1))
    unseen = quantile**2 / (count + quantile**2)
    half_width = quantile * spread / math.sqrt(count) if spread > 1e-12 else unseen
    value = float(differences.mean())
    samples = min(a.shape[1], b.shape[1])
    return Estimate(value, max(-1.0, value - half_width), min(1.0, value + half_width), None, count, samples)


def _checked(correct: Verdicts) -> Verdicts:
    matrix: NDArray[Any] = np.asarray(correct)
    if matrix.ndim != 2 or matrix.size == 0:
        raise ValueError(f"verdicts must be a non-empty matrix (problems, samples), got shape {matrix.shape}")
    if matrix.dtype != np.bool_:
        raise ValueError(f"verdicts must be booleans, got {matrix.dtype}: map unknown to False first")
    return matrix


def _interval(values: NDArray[np.float64], num_samples: int) -> tuple[float, float]:
    """Wilson's interval for the mean of per-problem scores in [0, 1], at its effective sample size.

    The design effect follows from the spread between problems: n_eff = p(1 − p) / (s²/n), the number of independent
    yes/no answers that would leave the same variance of the mean; it lies between n (each problem always right or
    always wrong) and n·k (no problem differs from another). At p = 0 or 1 no spread is seen and n_eff = n. The normal
    quantile is replaced by Student's with n − 1 degrees of freedom, because s² is estimated from n problems.
    """
    count = len(values)
    mean = float(values.mean())
    quantile = t_quantile(max(count - 1, 1))
    variance = float(values.var(ddof=1)) / count if count > 1 else 0.0
    if mean in (0.0, 1.0) or count == 1:
        effective = float(count)
    elif variance * count * num_samples <= mean * (1 - mean):
        effective = float(count * num_samples)
    else:
        effective = mean * (1 - mean) / variance
    shrink = 1 + quantile**2 / effective
    centre = (mean + quantile**2 / (2 * effective)) / shrink
    half_width = quantile * math.sqrt(mean * (1 - mean) / effective + quantile**2 / (4 * effective**2)) / shrink
    # The estimate itself always lies inside; rounding must not exclude it at 0 and 1.
    return max(0.0, min(mean, centre - half_width)), min(1.0, max(mean, centre + half_width))


@lru_cache(maxsize=256)
def t_quantile(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t, by bisection of its exact distribution function.

    Source: Abramowitz & Stegun 26.7.3 and 26.7.4 (finite series for whole degrees of freedom).

    Args:
        degrees: Degrees of freedom, at least 1.
    """
    low, high = 1.0, 13.0  # 12.7062 at one degree, 1.95996 in the limit
    for _ in range(60):
        middle = (low + high) / 2
        if _central_probability(middle, degrees) < CONFIDENCE:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _central_probability(t: float, degrees: int) -> float:
    """P(|T| ≤ t) for Student's t."""
    theta = math.atan(t / math.sqrt(degrees))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = degrees % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for step in range(odd + 2, degrees + 1, 2):
        total += term
        term *= cosine**2 * (step - 1) / step
    if degrees > 1 and odd == 0:
        return sine * total
    return 2 / math.pi * (theta + sine * total)
