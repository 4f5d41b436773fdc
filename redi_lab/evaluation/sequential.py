"""Stop sampling as soon as the question is answered: a confidence sequence, valid at every look.

    for num_samples in looks(16):
        ...                                                      # draw samples up to num_samples of every problem
        state = known_to(correct, 0.02, max_samples=16)          # is the score known to ± 0.02?
        state = better_by(new, old, 0.0, max_samples=16)         # or: is the new run better than the old one?
        if state.answer is not None:
            break

**What is guaranteed.** The problems are fixed: the score is the mean of p_i, the model's chance to solve problem i,
over this very benchmark, and only the sampling is random. Whatever the p_i, the interval holds that score at all looks
together with the stated confidence, so one may look after every round and stop for any reason. Of other problems it
says nothing; that is what `redi_lab.evaluation.comparison` is for.

**How.** A round is one sample of every problem. Against a candidate score m, a gambler who believes in more stakes the
fraction λ of what he has on every verdict: his wealth is Π(1 + λ(x_ij − c_ij − m)). If the mean of the p_i is at most
m, a round multiplies it in expectation by Π_i(1 + λ(p_i − c_ij − m)) ≤ 1, because problems are sampled independently
and a geometric mean is at most the arithmetic one. By Ville's inequality it then ever reaches 1/ε with a chance of at
most ε, and an m at which it does is ruled out. c_ij is what earlier rounds predict of problem i, less the mean of that
over the problems: it sums to 0 over a round, so it changes no expectation, and takes away the spread between problems,
which is not noise here. The wealth is the mean over gamblers with several λ.

Sources: Waudby-Smith and Ramdas 2024, "Estimating Means of Bounded Random Variables by Betting"; Howard, Ramdas,
McAuliffe and Sekhon 2021, "Time-Uniform, Nonparametric, Nonasymptotic Confidence Sequences" (mixtures over λ); the
treatment of unequal p_i goes back to Hoeffding 1956, "On the Distribution of the Number of Successes in Independent
Trials".
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray
from scipy import special

from redi_lab.evaluation.metrics import CONFIDENCE, Verdicts

Outcomes = NDArray[np.float64]
NUM_STAKES = 12
BISECTIONS = 14  # to less than a ten-thousandth


@final
@dataclass(frozen=True, slots=True)
class State:
    """What is known after some rounds.

    Attributes:
        answer: "known", "yes" or "no"; None as long as the question is open.
        low: Lower end of the interval for the score, or for the difference new − old.
        high: Upper end of it.
        num_samples: Samples of each problem that it rests on.
    """

    answer: str | None
    low: float
    high: float
    num_samples: int


def looks(max_samples: int) -> list[int]:
    """Samples of each problem at which to look: 1, 2, 3, 4, 6, 9, 13, …, `max_samples`.

    Any schedule is valid; growing steps spare an engine that is slow to start.
    """
    schedule = [1]
    while schedule[-1] < max_samples:
        schedule.append(min(max_samples, schedule[-1] + max(1, schedule[-1] // 2)))
    return schedule


def known_to(correct: Verdicts, width: float, *, max_samples: int, confidence: float = CONFIDENCE) -> State:
    """Is the score on these problems known to ± `width`?

    Args:
        correct: Verdicts so far, shape (problems, samples).
        width: Half-width that the interval may have.
        max_samples: Most samples of each problem that will be drawn; fixed before the first look.
        confidence: Chance that the intervals of all looks hold the score.
    """
    low, high = confidence_sequence(correct.astype(np.float64), max_samples=max_samples, confidence=confidence)
    return State("known" if high - low <= 2 * width else None, low, high, correct.shape[1])


def better_by(new: Verdicts, old: Verdicts, delta: float, *, max_samples: int, confidence: float = CONFIDENCE) -> State:
    """Is the new run's score on these problems more than `delta` above the old one's?

    Args:
        new: Verdicts so far, shape (problems, samples).
        old: Verdicts of the other run, same shape. The two may share random numbers.
        delta: In [−1, 1]; 0 asks for any improvement.
        max_samples: Most samples of each problem that will be drawn; fixed before the first look.
        confidence: Chance that the intervals of all looks hold the difference; a wrong answer is half as likely as
            the rest, since it takes an error on one side.
    """
    halved = (new.astype(np.float64) - old.astype(np.float64) + 1) / 2
    bounds = confidence_sequence(halved, max_samples=max_samples, confidence=confidence)
    low, high = (2 * bound - 1 for bound in bounds)
    answer = "yes" if low > delta else "no" if high < delta else None
    return State(answer, low, high, new.shape[1])


def confidence_sequence(outcomes: Outcomes, *, max_samples: int, confidence: float) -> tuple[float, float]:
    """Interval for the mean over problems of the expected outcome, valid at all rounds together.

    Args:
        outcomes: In [0, 1], shape (problems, rounds), one column a round in the order of drawing.
        max_samples: Rounds at most; it tunes the stakes, so it must not depend on the outcomes.
        confidence: In (0, 1).

    Returns:
        The intersection of the intervals of all rounds so far.
    """
    low = _lower_bound(outcomes, max_samples, confidence)
    return low, max(low, 1 - _lower_bound(1 - outcomes, max_samples, confidence))


def rules_out(outcomes: Outcomes, candidate: float, *, max_samples: int, confidence: float) -> NDArray[np.bool_]:
    """Whether, after each round, the mean is known to be above `candidate`; the same intervals, asked at one point.

    Args:
        outcomes: In [0, 1], shape (problems, rounds). For "below", give 1 − outcomes and 1 − candidate.
        candidate: In [0, 1).
        max_samples: See `confidence_sequence`.
        confidence: Likewise.

    Returns:
        Shape (rounds,); once true, it stays so.
    """
    wealth = _log_wealth(outcomes, candidate, max_samples, confidence)
    return np.maximum.accumulate(wealth) >= math.log(2 / (1 - confidence))


def _log_wealth(outcomes: Outcomes, candidate: float, max_samples: int, confidence: float) -> NDArray[np.float64]:
    """Log of the wealth, after each round, of those who bet that the mean is above `candidate`; decreasing in it."""
    predictions = _predictions(outcomes)
    stakes = _stakes(len(outcomes), max_samples, confidence)
    # The worst that can happen is x = 0 where c is largest: nobody may lose more than he has.
    largest = 1 / (1 + predictions.max(axis=0))
    gains = outcomes - predictions - candidate
    rounds = np.array([np.log1p(np.minimum(stake, largest) * gains).sum(axis=0) for stake in stakes])
    mixed: NDArray[np.float64] = special.logsumexp(rounds.cumsum(axis=1), axis=0) - math.log(len(stakes))
    return mixed


def _stakes(num_problems: int, max_samples: int, confidence: float) -> NDArray[np.float64]:
    """From the stake that suits the noisiest outcomes at the last round to all that one has.

    √(2 ln(2/ε) / (σ² n)) makes the most of n outcomes of variance σ², which is at most 1/4.
    """
    smallest = math.sqrt(8 * math.log(2 / (1 - confidence)) / (num_problems * max_samples))
    return np.geomspace(min(smallest, 1.0), 1.0, NUM_STAKES)


def _predictions(outcomes: Outcomes) -> Outcomes:
    """What earlier rounds predict of each problem, less its mean over problems; 0 in the first round.

    The prediction is the problem's mean so far, with the mean of all problems counted as one more sample of it.
    """
    before = np.concatenate([np.zeros((len(outcomes), 1)), outcomes.cumsum(axis=1)[:, :-1]], axis=1)
    centred: Outcomes = (before - before.mean(axis=0)) / np.arange(1, outcomes.shape[1] + 1)
    return centred


def _lower_bound(outcomes: Outcomes, max_samples: int, confidence: float) -> float:
    """The smallest mean that is not ruled out, found from below so that rounding widens the interval."""
    low, high = 0.0, 1.0
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if rules_out(outcomes, middle, max_samples=max_samples, confidence=confidence)[-1]:
            low = middle
        else:
            high = middle
    return low
