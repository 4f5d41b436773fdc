"""Is one way to train better than another? Both are trained on several seeds; trainings and problems are samples.

    comparison = compare_over_seeds(differences, has_same_problems=True)  # a row for each seed
    comparison.estimate.ci_low, comparison.seeds_needed

An interval over problems alone speaks of the very weights that were compared; this one of another training, on other
problems of the kind.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from scipy import special

from redi_lab.evaluation.comparison import POWER, Finding
from redi_lab.evaluation.metrics import CONFIDENCE, Estimate, Values, mean_difference, t_quantile

_MOST_SEEDS = 1000


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
        if self.estimate.ci_low <= 0 <= self.estimate.ci_high or (adjusted_p or 0.0) > 1 - CONFIDENCE:
            return Finding.UNDECIDED
        return Finding.BETTER if self.estimate.value > 0 else Finding.WORSE


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
    parts = _mean_squares(differences) if has_same_problems else (differences.mean(axis=1).var(ddof=1) * problems,)
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


def _mean_squares(differences: Values) -> tuple[float, float, float]:
    """Of seeds, of problems, and of what is left."""
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
