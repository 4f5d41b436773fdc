"""Which right trace is set against which wrong one.

    choose_pairs(positives, negatives, order="nearest", per_problem=1, salt="")  # [(0, 2)]: places in the two lists

`order` ranks all combinations of a problem, `per_problem` says how many of the first are taken: ("first", 1) is the
paper's rule, ("first", None) takes all. Everything is deterministic; ties go to the earlier generations.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

from redi_lab.data.token_weights import common_prefix

PairOrder = Literal["first", "random", "length_matched", "nearest", "longest_prefix"]

EDIT_WINDOW = 2000
"""Tokens (or characters) from the start that `nearest` compares: the cost grows with the square of it."""


@final
@dataclass(frozen=True, slots=True)
class Trace:
    """A generation that may be paired. Lengths and prefixes are in tokens if there are any, else in characters."""

    index: int
    text: str
    tokens: Collection[int] | None = None

    @property
    def units(self) -> Any:
        """The token ids as a list if there are any, else the text."""
        return self.text if self.tokens is None else list(self.tokens)

    def __len__(self) -> int:
        return len(self.text if self.tokens is None else self.tokens)


def choose_pairs(
    positives: Sequence[Trace],
    negatives: Sequence[Trace],
    *,
    order: PairOrder,
    per_problem: int | None,
    salt: str,
) -> list[tuple[int, int]]:
    """Choose pairs of one problem.

    Args:
        positives: right traces.
        negatives: wrong traces.
        order: first (as the corpus has them), random (by a hash of `salt`), length_matched (ratio of lengths next to
            1), nearest (smallest edit distance of the first `EDIT_WINDOW` tokens or characters, per length), or
            longest_prefix.
        per_problem: how many; None for all.
        salt: the seed and the problem's id, for the random order.

    Returns:
        Places in `positives` and `negatives`, best first. A text is never paired with itself.
    """
    places = [
        (i, j)
        for i, j in itertools.product(range(len(positives)), range(len(negatives)))
        if positives[i].text != negatives[j].text
    ]
    if order != "first" and len(places) > 1:
        rank = _RANKS[order]
        places.sort(key=lambda place: (rank(positives[place[0]], negatives[place[1]], salt), place))
    return places[:per_problem]


def edit_distance(left: Trace, right: Trace) -> float:
    """Levenshtein distance of the first `EDIT_WINDOW` tokens (or characters), over the longer one's length: 0 to 1."""
    from rapidfuzz.distance import Levenshtein

    return float(Levenshtein.normalized_distance(left.units[:EDIT_WINDOW], right.units[:EDIT_WINDOW]))


def _by_hash(left: Trace, right: Trace, salt: str) -> float:
    digest = hashlib.sha256(f"{salt}/{left.index}/{right.index}".encode()).digest()
    return float(int.from_bytes(digest[:6]))


def _by_length(left: Trace, right: Trace, salt: str) -> float:
    return abs(math.log(max(len(left), 1) / max(len(right), 1)))


_RANKS: dict[str, Callable[[Trace, Trace, str], float]] = {
    "random": _by_hash,
    "length_matched": _by_length,
    "nearest": lambda left, right, salt: edit_distance(left, right),
    "longest_prefix": lambda left, right, salt: -float(common_prefix(left.units, right.units)),
}
