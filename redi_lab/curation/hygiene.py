"""What may make a wrong trace a bad negative: a name for each flaw, and the plain rule behind it.

    flaws_of(negative, FLAWS)  # ("cut_off", "loop")

A trace that was cut off, loops, or is right after all teaches to avoid something else than wrong reasoning.
docs/curation.md has what the rules find on real traces.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from redi_lab.config.schema.curation import Flaw
from redi_lab.curation.duplicates import similarity
from redi_lab.data.pairing import Trace
from redi_lab.data.traces import Generation

GRADER = "grader"
"""The name of our own verdict among a generation's verdicts."""

_LONG_RATIO = 3.0
_TAIL_WORDS, _FEWEST_WORDS, _GRAM, _DISTINCT_SHARE = 300, 60, 5, 0.3
_FOREIGN_SHARE = 0.05
_SCRIPTS_OF_MATHS = frozenset({"LATIN", "GREEK", "MATHEMATICAL", "DOUBLE-STRUCK", "SCRIPT"})


@final
@dataclass(frozen=True, slots=True)
class Negative:
    """A trace that is not known to be right.

    Attributes:
        generation: with the words of its verifiers.
        trace: its text, and its tokens if they are counted.
        is_wrong: what all verifiers say; False where nobody knows.
        is_truncated: whether it was cut off.
        has_answer: whether it states a final answer.
        problem: that it answers.
        right: the problem's right traces.
        near_threshold: similarity from which two texts are near duplicates.
        signature: of a text, for that; remembered, since all negatives of a problem are held against its right traces.
    """

    generation: Generation
    trace: Trace
    is_wrong: bool
    is_truncated: bool
    has_answer: bool
    problem: str
    right: Sequence[Trace]
    near_threshold: float
    signature: Callable[[str], bytes]

    def is_disputed(self) -> bool:
        """Whether one verifier accepts it and another does not."""
        return {True, False} <= {word for _, word in self.generation.verdicts}

    def is_right_on_regrading(self) -> bool:
        """Whether our grader accepts what the corpus does not."""
        verdicts = self.generation.verdicts
        return (GRADER, True) in verdicts and any(name != GRADER for name, _ in verdicts)

    def is_near_a_right_one(self) -> bool:
        """Whether it is a near duplicate of a right trace, whatever numbers it holds."""
        own = self.signature(self.trace.text)
        return any(similarity(own, self.signature(right.text)) >= self.near_threshold for right in self.right)

    def is_long(self) -> bool:
        """Whether it is over three times as long as the median of the right traces."""
        lengths = sorted(map(len, self.right))
        return bool(lengths) and len(self.trace) > _LONG_RATIO * lengths[len(lengths) // 2]


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


FLAWS: Mapping[Flaw, Callable[[Negative], bool]] = {
    "cut_off": lambda negative: negative.is_truncated,
    "no_answer": lambda negative: not negative.has_answer,
    "unknown": lambda negative: not negative.is_wrong,
    "disputed": Negative.is_disputed,
    "regraded_right": Negative.is_right_on_regrading,
    "near_positive": Negative.is_near_a_right_one,
    "loop": lambda negative: loops(negative.trace.text),
    "other_language": lambda negative: is_in_another_language(negative.trace.text, negative.problem),
    "long": Negative.is_long,
}


def flaws_of(negative: Negative, wanted: Collection[Flaw]) -> tuple[Flaw, ...]:
    """Those of `wanted` that a negative has."""
    return tuple(flaw for flaw, has in FLAWS.items() if flaw in wanted and has(negative))
