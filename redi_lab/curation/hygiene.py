"""What may make a wrong trace a bad negative: a name for each flaw, and the plain rule behind it.

    judge = Judge(problem, right_traces, near_threshold=0.8, has_answer=has_answer)
    judge.flaws_of(candidate, FLAWS)  # ("cut_off", "loop")

A trace that was cut off, loops, or is right after all teaches to avoid something else than wrong reasoning.
docs/curation.md has what the rules find on real traces.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import final

from redi_lab.config.schema.curation import Flaw
from redi_lab.curation.duplicates import signature, similarity
from redi_lab.data.pairing import Trace
from redi_lab.data.traces import Generation
from redi_lab.data.verdicts import Decision

GRADER = "grader"
"""The name of our own verdict among a generation's verdicts."""

_LONG_RATIO = 3.0
_TAIL_WORDS, _FEWEST_WORDS, _GRAM, _DISTINCT_SHARE = 300, 60, 5, 0.3
_FOREIGN_SHARE = 0.05
_SCRIPTS_OF_MATHS = frozenset({"LATIN", "GREEK", "MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT"})


@final
@dataclass(frozen=True, slots=True)
class Candidate:
    """A generation with its verdict, its text (and tokens, if they are counted), and whether it was cut off."""

    generation: Generation
    decision: Decision
    trace: Trace
    is_truncated: bool


@final
@dataclass(frozen=True)
class Judge:
    """Looks at those candidates of a problem that are not known to be right.

    Attributes:
        problem: its text.
        right: its right traces.
        near_threshold: similarity from which two texts are near duplicates.
        has_answer: whether a text states a final answer.
    """

    problem: str
    right: Sequence[Trace]
    near_threshold: float
    has_answer: Callable[[str], bool]

    def flaws_of(self, negative: Candidate, wanted: Collection[Flaw]) -> tuple[Flaw, ...]:
        """Those of `wanted` that a negative has."""
        return tuple(flaw for flaw, has in FLAWS.items() if flaw in wanted and has(self, negative))

    def is_near_a_right_one(self, negative: Candidate) -> bool:
        """Whether it is a near duplicate of a right trace, whatever numbers it holds."""
        own = signature(negative.trace.text, same_numbers=False)
        return any(similarity(own, right) >= self.near_threshold for right in self._right_signatures)

    def is_long(self, negative: Candidate) -> bool:
        """Whether it is over three times as long as the median of the right traces."""
        lengths = sorted(map(len, self.right))
        return bool(lengths) and len(negative.trace) > _LONG_RATIO * lengths[len(lengths) // 2]

    @cached_property
    def _right_signatures(self) -> list[bytes]:
        return [signature(right.text, same_numbers=False) for right in self.right]


def _is_right_on_regrading(generation: Generation) -> bool:
    """Whether our grader accepts what the corpus does not."""
    return (GRADER, True) in generation.verdicts and any(name != GRADER for name, _ in generation.verdicts)


def loops(text: str) -> bool:
    """Whether a text ends in repetition: under 30 % of the 5-grams of its last 300 words are distinct.

    One of fewer than 60 words does not count: short answers repeat themselves.
    """
    words = text.split()[-_TAIL_WORDS:]
    grams = [tuple(words[start : start + _GRAM]) for start in range(len(words) - _GRAM + 1)]
    return len(words) >= _FEWEST_WORDS and len(set(grams)) < _DISTINCT_SHARE * len(grams)


def is_in_another_language(text: str, problem: str) -> bool:
    """Whether over 5 % of a text's letters are of scripts that neither formulas nor the problem use."""
    known = _SCRIPTS_OF_MATHS | {_script(letter) for letter in set(problem) if letter.isalpha()}
    letters = {letter: text.count(letter) for letter in set(text) if letter.isalpha()}
    foreign = sum(number for letter, number in letters.items() if _script(letter) not in known)
    return foreign > _FOREIGN_SHARE * sum(letters.values())


def _script(letter: str) -> str:
    """The first word of its name in Unicode, such as LATIN or CJK."""
    return unicodedata.name(letter, "UNKNOWN").split()[0]


FLAWS: Mapping[Flaw, Callable[[Judge, Candidate], bool]] = {
    "cut_off": lambda _, negative: negative.is_truncated,
    "no_answer": lambda judge, negative: not judge.has_answer(negative.trace.text),
    "unknown": lambda _, negative: negative.decision.correct is None,
    "disputed": lambda _, negative: {True, False} <= {word for _, word in negative.generation.verdicts},
    "regraded_right": lambda _, negative: _is_right_on_regrading(negative.generation),
    "near_positive": Judge.is_near_a_right_one,
    "loop": lambda _, negative: loops(negative.trace.text),
    "other_language": lambda judge, negative: is_in_another_language(negative.trace.text, judge.problem),
    "long": Judge.is_long,
}
