r"""Where a wrong trace goes wrong: its steps, and what rollouts from their ends say of the first wrong one.

    ends = split("1 more is 8 .\nso 2 more is 9 .\n\boxed{9}", "lines")  # (14, 31, 40)
    belief = first_wrong({0: (5, 1), 1: (4, 2), 2: (0, 6)}, num_steps=3)  # rolled out after 0, 1 and 2 steps
    belief.argmax()  # 2: the second step, after which no rollout is right

The rule is a change point. A trace of L steps that is known to be wrong has lost its chance to be right after some step
s, or (s = 0) never had one, with this model. After fewer than s steps the chance is anything, uniform on [0, 1] and
another at each place; from s steps on it is Beta(1, 1/recovery − 1), of mean `recovery`. Each place with r right of n
known rollouts then speaks for one or the other by a beta-binomial, and all s are equally likely beforehand. So one
unlucky place does not outweigh right rollouts further on, and places without rollouts say nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["lines", "paragraphs", "sentences"]
Counts = Mapping[int, tuple[int, int]]
"""Steps that a prefix has → its right and its wrong rollouts; those without a verdict are in neither."""

_ENDS: dict[Split, re.Pattern[str]] = {
    "lines": re.compile(r"\n\s*"),
    "paragraphs": re.compile(r"\n\s*\n\s*"),
    "sentences": re.compile(r"[.!?]\s+|\n\s*\n\s*"),
}


def split(text: str, rule: Split) -> tuple[int, ...]:
    """Where the steps of a text end, in characters (exclusive); a step takes the white space behind it.

    Args:
        text: not blank.
        rule: a step is a line; what blank lines divide; or a sentence: up to white space after . ! or ?, or a blank
            line.
    """
    content = len(text.rstrip())
    start = len(text) - len(text.lstrip())
    found = (match.end() for match in _ENDS[rule].finditer(text, start))
    return (*(end for end in found if end < content), len(text))


def first_wrong(counts: Counts, num_steps: int, recovery: float = 0.05) -> NDArray[np.float64]:
    """How probable it is that each step is the first wrong one.

    Args:
        counts: at places from 0, the problem alone, to `num_steps` − 1; the whole trace is known to be wrong.
        num_steps: L.
        recovery: mean chance to be right in spite of a wrong step, in (0, 1).

    Returns:
        Shape (L + 1,), of sum 1; place 0 is that the model has no chance, whatever the trace says.
    """
    logits = np.zeros(num_steps + 1)
    for place, (right, wrong) in counts.items():
        logits[place] = _log_odds_of_lost(right, right + wrong, 1 / recovery - 1)
    logits = np.cumsum(logits[::-1])[::-1]  # s steps were written when the chance was lost: all places from s on say so
    weights = np.exp(logits - logits.max())
    belief: NDArray[np.float64] = weights / weights.sum()
    return belief


def next_place(belief: NDArray[np.float64], counts: Counts) -> int | None:
    """Where rollouts say most: the place without any before which the chance was lost with a probability nearest ½.

    Args:
        belief: see `first_wrong`.
        counts: of the places that have rollouts.

    Returns:
        None where all have.
    """
    lost = np.cumsum(belief)[:-1]
    open_places = [place for place in range(len(lost)) if place not in counts]
    return min(open_places, key=lambda place: abs(lost[place] - 0.5), default=None)


def chances(counts: Counts, num_steps: int) -> list[float | None]:
    """Shares of right rollouts after 0 to `num_steps` steps; 0 at the end, and None without a verdict."""
    known = {place: right / (right + wrong) for place, (right, wrong) in counts.items() if right + wrong}
    return [*(known.get(place) for place in range(num_steps)), 0.0]


def _log_odds_of_lost(right: int, total: int, b: float) -> float:
    """Log of how much likelier r of n right is under Beta(1, b) than under a uniform chance, where it is 1/(n + 1)."""
    log_choose = math.lgamma(total + 1) - math.lgamma(right + 1) - math.lgamma(total - right + 1)
    log_beta = math.lgamma(1 + right) + math.lgamma(b + total - right) - math.lgamma(1 + b + total)
    return log_choose + log_beta + math.log(b) + math.log(total + 1)
