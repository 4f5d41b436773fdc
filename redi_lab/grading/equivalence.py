r"""Compare two final answers by the conventions of docs/grading.md: one reading of each, exact, without a library.

    compare_answers(r"x \in [2, \infty)", r"[2,\infty)")   ->  Outcome.SAME
    compare_answers(r"\frac{1}{2}, 3", r"\frac{1}{2}")     ->  Outcome.DIFFERENT
    compare_answers(r"2\sqrt{2}", r"\sqrt{8}")             ->  Outcome.ALGEBRA: ask the algebra system
    compare_answers("5 apples", "5 pears")                 ->  Outcome.UNITS: unclear

Runs in the parent process, with bounded regular expressions alone: time is linear in the text and quadratic in the
number of parts, which is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import StrEnum

from redi_lab.grading.notation import is_unit, normalise, squeeze
from redi_lab.grading.reading import Group, Leaf, Number, Part, UnreadableError, read

_CHOICE = re.compile(r"(?s)\(?([A-J])\)?[.:]?|\(([A-J])\).*|([A-J])[).:]\s*\S.*|(?:[Oo]ption|[Cc]hoice) \(?([A-J])\)?")
_BASE = re.compile(r"\(?([0-9A-F]+)\)?_\{?\(?([0-9]{1,2})\)?\}?")
_RATIO = re.compile(r"[0-9]+(?::[0-9]+)+")
_PHRASE = re.compile(r"[A-Za-z][A-Za-z '.\-]*")
_PROSE = re.compile(
    r"(?<![A-Za-z\\])(?<!\\begin\{)(?<!\\end\{)(?!(?:sqrt|sinh|cosh|tanh|arcsin|arccos|arctan|frac)(?![a-z]))[A-Za-z]{4,}"
    r"|(?<![A-Za-z\\])(?:is|are|not|no|or|to|by)(?![A-Za-z])"
)
_GLUED_PROSE = re.compile(r"(?<![A-Za-z\\])[A-Za-z']{18,}")  # a sentence whose spaces were stripped
_SEVERAL_READINGS = re.compile(
    r"(?<![A-Za-z\\])[fghFGH]\s?\^\s?\{?-1\}?\s?\(|!!|(?<![0-9])0x[0-9]|[%＄€£¥⟦]|^[0-9.,\s]+$|\)\s?\(.*,"
)
# Powers of powers of powers of numbers, factorials of powers and of factorials: no time is enough for them.
_BEYOND_COMPUTING = re.compile(r"[0-9)}](?:\s*\^[\s{(]*[0-9]+){3}|(?:!|\^\s*\{?[0-9]+\}?)\s*\)\s*!")


class Outcome(StrEnum):
    """What a comparison has found; the value is the reason that a grade states."""

    SAME = "same answer"
    DIFFERENT = "different answer"
    ALGEBRA = "needs algebra"
    UNITS = "units that may differ"
    NAMES = "labels that may differ"
    WORDING = "another wording"
    KIND = "a text against a value"
    EQUATION = "an equation against a value"
    NOTATION = "notation with several readings"
    SIZE = "a number beyond computing"
    LETTER_CASE = "same but for upper and lower case of its letters"
    UNREADABLE = "math-verify cannot read it"
    FAILED = "math-verify failed"
    DISAGREEMENT = "numbers and algebra disagree"
    TIMEOUT = "timeout"
    MEMORY = "out of memory"


Algebra = Callable[[Leaf, Leaf], Outcome]
"""Decides two values that are no plain numbers, `answer` and `gold`."""


def compare_answers(answer: str, gold: str, algebra: Algebra = lambda *_: Outcome.ALGEBRA) -> Outcome:
    """Compare an answer with the accepted one. Never raises, whatever the texts hold, unless `algebra` does.

    Args:
        answer: as `extract_answer` returns it.
        gold: as `gold_answer` returns it.
        algebra: decides what this module leaves open; without it that is `Outcome.ALGEBRA`.
    """
    left, right = normalise(answer), normalise(gold)
    if squeeze(left) == squeeze(right):
        return Outcome.SAME if squeeze(left) else Outcome.NOTATION
    found = _compare_labels(*(re.sub(r"[⟦⟧]", "", text).strip() for text in (left, right)))
    if found is not None:
        return found
    if _GLUED_PROSE.search(left) or _GLUED_PROSE.search(right):
        return Outcome.KIND
    try:
        outcome = _compare(read(left), read(right), algebra)
    except UnreadableError:
        return Outcome.NOTATION
    if outcome is Outcome.DIFFERENT and re.sub(r"[\s,()]", "", left) == re.sub(r"[\s,()]", "", right):
        return Outcome.NOTATION  # 1,234 and (1, 234)
    return outcome


def _same_if(condition: bool) -> Outcome:
    return Outcome.SAME if condition else Outcome.DIFFERENT


def _compare_labels(left: str, right: str) -> Outcome | None:
    """Choice letters, numbers with a base, ratios, clock times and words: compared as they are written."""
    choices = [next(filter(None, match.groups())) for text in (left, right) if (match := _CHOICE.fullmatch(text))]
    if len(choices) == 2:
        return _same_if(choices[0] == choices[1])
    if _RATIO.fullmatch(left) and _RATIO.fullmatch(right):
        return Outcome.NOTATION  # 1:2 may be 2:4
    bases = [_BASE.fullmatch(text) for text in (left, right)]
    if any(bases):  # the base that only one side states is the one that was asked for
        digits = [match[1] if match else text for match, text in zip(bases, (left, right), strict=True)]
        return Outcome.NOTATION if all(bases) or digits[0] != digits[1] else Outcome.SAME
    are_phrases = [_is_phrase(text) for text in (left, right)]
    if not any(are_phrases):
        return None
    if not (_PHRASE.fullmatch(left) and _PHRASE.fullmatch(right)):
        return Outcome.KIND
    one, other = (re.sub(r"[\s'.\-]+", "", text).casefold() for text in (left, right))
    if one == other:
        return Outcome.SAME
    are_names = all(are_phrases) and " " not in left + right and one not in other and other not in one
    return Outcome.DIFFERENT if are_names and not left.isupper() else Outcome.WORDING


def _is_phrase(text: str) -> bool:
    """Words rather than a product of letters."""
    return bool(_PHRASE.fullmatch(text)) and (" " in text or len(text) > 3 or text.casefold() in ("yes", "no", "odd"))


def _compare(answer: Part, gold: Part, algebra: Algebra) -> Outcome:
    if isinstance(answer, Leaf) and isinstance(gold, Leaf):
        if answer.is_relation or gold.is_relation:
            return _compare_relations(answer, gold, algebra)
        outcome = _compare_values(answer, gold, algebra)
        are_numbers = answer.number is not None and gold.number is not None
        if outcome is Outcome.DIFFERENT and not are_numbers and answer.name and gold.name and answer.name != gold.name:
            return Outcome.NAMES  # y = 2x and x = y/2
    elif isinstance(answer, Group) and isinstance(gold, Group):
        outcome = _compare_groups(answer, gold, algebra)
    else:
        return _compare_kinds(answer, gold, algebra)
    return _with_names(answer.name, gold.name, outcome)


def _compare_kinds(answer: Part, gold: Part, algebra: Algebra) -> Outcome:
    """A group against one value, which may be a union, a set-builder, a column vector or an inequality."""
    group, leaf = (answer, gold) if isinstance(answer, Group) else (gold, answer)
    assert isinstance(group, Group)
    assert isinstance(leaf, Leaf)
    if leaf.number is not None:
        return Outcome.DIFFERENT
    if leaf.unit or not group.opening or _PROSE.search(leaf.text) or any(part.name for part in group.parts):
        return Outcome.NOTATION
    return algebra(Leaf(answer.text), Leaf(gold.text))


def _with_names(answer: str, gold: str, outcome: Outcome) -> Outcome:
    """Two labels must agree for two values to be the same; y, f(x) and (x) may all name a function's value."""
    one, other = sorted((answer, gold), key=len)
    if not one or one == other or outcome is Outcome.DIFFERENT:
        return outcome
    is_function = re.fullmatch(r".{1,20}\([a-z]\)", other) is not None and one in ("y", other[0])
    return outcome if is_function else Outcome.NAMES


def _compare_groups(left: Group, right: Group, algebra: Algebra) -> Outcome:
    if left.is_ordered and right.is_ordered:
        is_interval = len(left.parts) == 2 and (left.opening, left.closing) != (right.opening, right.closing)
        outcome = _pairwise(left, right, algebra)
        return Outcome.DIFFERENT if outcome is Outcome.SAME and is_interval else outcome
    if left.is_ordered == right.is_ordered:
        return _compare_unordered(left.parts, right.parts, algebra)
    ordered, other = (left, right) if left.is_ordered else (right, left)
    if other.opening == "{":
        return Outcome.DIFFERENT
    if any(isinstance(part, Group) for part in other.parts):  # a list of tuples, of which there is but one
        sides = [(part,) if part is ordered else part.parts for part in (left, right)]
        return _compare_unordered(sides[0], sides[1], algebra)
    return _pairwise(left, right, algebra)  # a bare list may be meant as a tuple: then its order counts


def _pairwise(left: Group, right: Group, algebra: Algebra) -> Outcome:
    if len(left.parts) != len(right.parts):
        return Outcome.DIFFERENT
    sides = [left.parts, right.parts]
    names = [{part.name for part in side} for side in sides]
    if "" not in names[0] | names[1] and names[0] == names[1]:  # x = 1, y = 2 in any order
        sides = [tuple(sorted(side, key=lambda part: part.name)) for side in sides]
    found = {_compare(a, b, algebra) for a, b in zip(*sides, strict=True)}
    return Outcome.DIFFERENT if Outcome.DIFFERENT in found else _first(found - {Outcome.SAME}, Outcome.SAME)


def _compare_unordered(left: tuple[Part, ...], right: tuple[Part, ...], algebra: Algebra) -> Outcome:
    """Every part must be met by one of the other side; how often and in which order does not matter."""
    table = [[_compare(a, b, algebra) for b in right] for a in left]
    missing = [set(line) for line in (*table, *zip(*table, strict=True)) if Outcome.SAME not in line]
    if {Outcome.DIFFERENT} in missing:
        return Outcome.DIFFERENT
    return _first({outcome for line in missing for outcome in line} - {Outcome.DIFFERENT}, Outcome.SAME)


def _first(unclear: set[Outcome], otherwise: Outcome) -> Outcome:
    """What is unclear for good comes before what algebra may decide."""
    return min(unclear, key=lambda outcome: (outcome is Outcome.ALGEBRA, outcome), default=otherwise)


def _compare_relations(answer: Leaf, gold: Leaf, algebra: Algebra) -> Outcome:
    if answer.is_relation != gold.is_relation:
        relation, value = (answer, gold) if answer.is_relation else (gold, answer)
        if "=" in relation.text or value.number is not None or value.unit:
            return Outcome.EQUATION
    sides = [leaf.text.split("=") for leaf in (answer, gold)]
    if len(sides[0]) == len(sides[1]) == 2 and squeeze(sides[0][0]) == squeeze(sides[1][0]):
        return algebra(Leaf(sides[0][1].strip()), Leaf(sides[1][1].strip()))
    return algebra(answer, gold)


def _compare_values(answer: Leaf, gold: Leaf, algebra: Algebra) -> Outcome:
    units = answer.unit, gold.unit
    if units[0] != units[1]:
        if all(units) or any(unit and not is_unit(unit) for unit in units):
            return Outcome.UNITS
        if "%" in units:
            return _compare_percent(answer, gold)
    if answer.number and gold.number:
        return compare_numbers(answer.number, gold.number)
    return _compare_texts(answer, gold, algebra)


def _compare_texts(answer: Leaf, gold: Leaf, algebra: Algebra) -> Outcome:
    texts = squeeze(answer.text), squeeze(gold.text)
    if texts[0] == texts[1]:
        return Outcome.SAME
    if _PROSE.search(answer.text) or _PROSE.search(gold.text):
        return Outcome.KIND
    if any(_SEVERAL_READINGS.search(leaf.text) and leaf.number is None for leaf in (answer, gold)):
        return Outcome.NOTATION
    if any(_BEYOND_COMPUTING.search(leaf.text) for leaf in (answer, gold)):
        return Outcome.SIZE
    outcome = algebra(answer, gold)
    is_case = outcome is Outcome.DIFFERENT and texts[0].casefold() == texts[1].casefold()
    return Outcome.LETTER_CASE if is_case else outcome


def _compare_percent(answer: Leaf, gold: Leaf) -> Outcome:
    """A percent sign on one side alone is a unit; the same quantity written out (60 % and 0.6) is as good."""
    if not (answer.number and gold.number):
        return Outcome.UNITS
    percent, plain = (answer.number, gold.number) if answer.unit == "%" else (gold.number, answer.number)
    if percent.value == 100 * plain.value:
        return Outcome.SAME
    outcome = compare_numbers(answer.number, gold.number)
    return Outcome.UNITS if outcome is Outcome.SAME and abs(plain.value) <= 1 else outcome


def compare_numbers(answer: Number, gold: Number) -> Outcome:
    """Exactly, or as a rounding: an exact gold in three digits or more, or a decimal gold that the answer rounds to."""
    if answer.value == gold.value:
        return Outcome.SAME
    rounded = gold if gold.step else answer
    is_finer = answer.step <= gold.step if gold.step else gold.value.denominator != 1  # no rounding to a whole number
    is_close = abs(answer.value - gold.value) <= rounded.step / 2
    return _same_if(is_close and is_finer and is_precise(rounded))


def is_precise(number: Number) -> bool:
    """Whether a decimal shows the three significant digits that a rounding must have."""
    return number.step != 0 and abs(number.value) >= 100 * number.step
