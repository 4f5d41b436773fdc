"""Which right trace is set against which wrong one.

    choose_pairs(positives, negatives, order="nearest", per_problem=1, salt="")  # [(0, 2)]: places in the two lists

`order` ranks all combinations of a problem, `per_problem` says how many of the first are taken: ("first", 1) is the
paper's rule, ("first", None) takes all. Everything is deterministic; ties go to the earlier generations.

    far_pairs(pairs, "shuffled_steps", seed=0)  # with wrong traces that no teacher wrote
"""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, final

from redi_lab.data.token_weights import common_prefix
from redi_lab.data.traces import Pair, TraceWeights

PairOrder = Literal["first", "random", "length_matched", "nearest", "longest_prefix"]
FarRule = Literal["other_problem", "shuffled_steps"]
Negatives = PairOrder | FarRule

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
    if len(places) > 1:
        rank = RANKS[order]
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


RANKS: dict[str, Callable[[Trace, Trace, str], float]] = {
    "first": lambda left, right, salt: 0.0,
    "random": _by_hash,
    "length_matched": _by_length,
    "nearest": lambda left, right, salt: edit_distance(left, right),
    "longest_prefix": lambda left, right, salt: -float(common_prefix(left.units, right.units)),
}


def other_problem(pairs: Sequence[Pair], place: int, seed: int) -> str | None:
    """The right trace of the next pair of another problem."""
    others = (pairs[(place + further) % len(pairs)] for further in range(1, len(pairs)))
    return next((other.chosen for other in others if other.problem != pairs[place].problem), None)


def shuffled_steps(pairs: Sequence[Pair], place: int, seed: int) -> str | None:
    """The lines of the right trace in another order."""
    lines = pairs[place].chosen.split("\n")
    shuffled = random.Random(f"{seed}/{pairs[place].id}").sample(lines, len(lines))
    return next((text for text in map("\n".join, (shuffled, lines[::-1])) if text != pairs[place].chosen), None)


_FAR: dict[str, Callable[[Sequence[Pair], int, int], str | None]] = {
    "other_problem": other_problem,
    "shuffled_steps": shuffled_steps,
}


def far_pairs(pairs: Sequence[Pair], rule: Negatives, seed: int) -> tuple[Pair, ...]:
    """The pairs with wrong traces that a far rule makes of right ones; as they are under any other rule.

    Those of which the rule can make none, such as traces of one line, are left out. A wrong trace keeps its weight, but
    not the weights of its parts.
    """
    if rule not in _FAR:
        return tuple(pairs)
    made = ((pair, _FAR[rule](pairs, place, seed)) for place, pair in enumerate(pairs))
    return tuple(
        replace(pair, rejected=text, rejected_weights=TraceWeights(pair.rejected_weights.weight), error=rule)
        for pair, text in made
        if text is not None and text != pair.chosen
    )
