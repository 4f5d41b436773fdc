"""From what the data say of a trace to a weight for each token of its completion: the rules of `data.token_weights`.

    characters = weigh("spans", trace_weights, is_chosen=True, row="a")  # None: all are 1
    checked(characters.at(last_characters), "a: its chosen completion")

A rule gives weights to characters. A token has that of its last character, since tokens of byte-level vocabularies
begin with the space before a word; the end-of-turn token has that of the last character of the text. What the weights
do to a loss is said in docs/objectives.md.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import eq
from typing import Any, Literal, final

import numpy as np
from numpy.typing import NDArray

from redi_lab.data.traces import Step, TraceWeights
from redi_lab.errors import UserError

Rule = Literal["none", "spans", "after_first_error", "step_advantages"]
READS: dict[Rule, str] = {"spans": "spans", "after_first_error": "steps", "step_advantages": "steps"}
"""The columns that each rule is made from."""


@final
@dataclass(frozen=True, slots=True)
class CharacterWeights:
    """Weights of characters: (start, end, weight) of one or more stretches in order, and that of all others."""

    stretches: Sequence[tuple[int, float, float]]
    elsewhere: float

    def at(self, places: Sequence[int]) -> NDArray[np.float64]:
        """The weights of the characters at these places."""
        starts, ends, weights = np.array(self.stretches, dtype=np.float64).T
        found = np.searchsorted(starts, places, side="right") - 1
        return np.where((found >= 0) & (np.array(places) < ends[found]), weights[found], self.elsewhere)


def weigh(rule: Rule, trace: TraceWeights, *, is_chosen: bool, row: str) -> CharacterWeights | None:
    """What `rule` makes of a trace; None where every character counts as 1.

    Raises:
        UserError: the trace does not have what the rule needs; the message names the row.
    """
    return None if rule == "none" else _RULES[rule](trace, is_chosen, row)


def _by_spans(trace: TraceWeights, is_chosen: bool, row: str) -> CharacterWeights | None:
    """A span's own weight, and 1 outside of spans."""
    spans = [(span.start, span.end, span.weight) for span in trace.spans]
    return CharacterWeights(spans, 1.0) if spans else None


def _after_first_error(trace: TraceWeights, is_chosen: bool, row: str) -> CharacterWeights | None:
    """Of a rejected trace: 0 before its first wrong step, 1 from there on."""
    if is_chosen:
        return None
    wrong = next((step.start for step in trace.steps if step.right is False), None)
    if wrong is None:
        raise _refusal(row, "after_first_error", 'no step of its rejected trace has "right": false; mark the first')
    return CharacterWeights([(wrong, math.inf, 1.0)], 0.0)


def _by_advantages(trace: TraceWeights, is_chosen: bool, row: str) -> CharacterWeights | None:
    """The advantage of a step, with the other sign in a rejected trace, which is pushed down; 0 outside of steps."""
    side = "chosen" if is_chosen else "rejected"
    if not trace.steps:
        raise _refusal(row, "step_advantages", f"its {side} trace has no steps; give it some")

    def stretch(step: Step) -> tuple[int, float, float]:
        if step.advantage is None:
            raise _refusal(row, "step_advantages", f"the step at {step.start} of its {side} trace has no advantage")
        return step.start, step.end, step.advantage if is_chosen else -step.advantage

    return CharacterWeights([stretch(step) for step in trace.steps], 0.0)


_RULES: dict[Rule, Callable[[TraceWeights, bool, str], CharacterWeights | None]] = {
    "spans": _by_spans,
    "after_first_error": _after_first_error,
    "step_advantages": _by_advantages,
}


def _refusal(row: str, rule: Rule, reason: str) -> UserError:
    return UserError(f"{row}: data.token_weights={rule}: {reason}, or drop the row")


def common_prefix(left: Sequence[Any], right: Sequence[Any]) -> int:
    """How many tokens, or characters, two completions share from their start."""
    return sum(1 for _ in takewhile(bool, map(eq, left, right)))


def checked(weights: NDArray[np.float64], what: str) -> Sequence[float] | None:
    """Token weights in single precision; None where all are 1.

    Raises:
        UserError: all are 0, or one is not finite; the message begins with `what` they are of.
    """
    with np.errstate(over="ignore"):
        single = weights.astype(np.float32)
    if not np.isfinite(single).all():
        raise UserError(f"{what} has a token whose weight is not finite; make weights smaller, or drop the row")
    if not single.any():
        raise UserError(f"{what} has no token whose weight is not 0; weigh some, or drop the row")
    return None if (single == 1.0).all() else array("f", single.tobytes())
