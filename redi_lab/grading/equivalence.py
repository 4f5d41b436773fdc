r"""Compare two final answers by the conventions of docs/grading.md: one reading of each, exact, without a library.

    compare_answers(r"x \in [2, \infty)", r"[2,\infty)")   ->  Outcome.SAME
    compare_answers(r"\frac{1}{2}, 3", r"\frac{1}{2}")     ->  Outcome.DIFFERENT
    compare_answers(r"2\sqrt{2}", r"\sqrt{8}")             ->  Outcome.ALGEBRA: ask the algebra system
    compare_answers("5 apples", "5 pears")                 ->  Outcome.UNITS: unclear

Runs in the parent process: time is linear in the text and quadratic in the number of parts, which is bounded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from enum import StrEnum
from fractions import Fraction

from redi_lab.grading.notation import normalise, squeeze
from redi_lab.grading.reading import Group, Leaf, Number, Part, UnreadableError, read
from redi_lab.grading.units import is_known, is_unit
from redi_lab.grading.values import differ

MIN_ROUNDED_DIGITS = 3  # significant digits that a rounded decimal must show to stand for an exact value

_CHOICE = re.compile(r"\(?([A-J])\)?[.:]?")
_CHOICE_WITH_TEXT = re.compile(
    r"\(([A-J])\).*|([A-J])[).:]\s*\S.*|(?:[Oo]ption|[Cc]hoice|[Aa]nswer) \(?([A-J])\)?", re.DOTALL
)
_BASE = re.compile(r"\(?([0-9A-F]{1,200})\)?_\{?\(?([0-9]{1,2})\)?\}?")
_RATIO = re.compile(r"[0-9]{1,20}(?::[0-9]{1,20}){1,5}")
_PHRASE = re.compile(r"[A-Za-z][A-Za-z '.\-]*")
_PROSE = re.compile(
    r"(?<![A-Za-z\\])(?<!\\begin\{)(?<!\\end\{)(?!(?:sqrt|sinh|cosh|tanh|arcsin|arccos|arctan|frac)(?![a-z]))[A-Za-z]{4,}"
    r"|(?<![A-Za-z\\])(?:is|are|not|no|or|to|by)(?![A-Za-z])"
)
_GLUED_PROSE = re.compile(r"(?<![A-Za-z\\])[A-Za-z']{18,}")  # a sentence whose spaces were stripped
_SEVERAL_READINGS = re.compile(
    r"(?<![A-Za-z\\])[fghFGH]\s?\^\s?\{?-1\}?\s?\(|!!|(?<![0-9])0x[0-9]|[%＄€£¥⟦]|^[0-9.,\s]+$|\)\s?\(.*,"
)


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
    LETTER_CASE = "same but for upper and lower case of its letters"
    UNREADABLE = "math-verify cannot read it"
    FAILED = "math-verify failed"
    DISAGREEMENT = "numbers and algebra disagree"
    TIMEOUT = "timeout"
    MEMORY = "out of memory"


Algebra = Callable[[Leaf, Leaf], Outcome]
"""Decides two values that are no plain numbers, `answer` and `gold`."""


def compare_answers(answer: str, gold: str, algebra: Algebra | None = None) -> Outcome:
    """Compare an answer with the accepted one. Never raises, whatever the texts hold, unless `algebra` does.

    Args:
        answer: as `extract_answer` returns it.
        gold: as `gold_answer` returns it.
        algebra: decides what this module leaves open; without it that is `Outcome.ALGEBRA`.
    """
    left, right = normalise(answer), normalise(gold)
    if squeeze(left) == squeeze(right):
        return Outcome.SAME if squeeze(left) else Outcome.NOTATION
    found = _compare_labels(left, right)
    if found is not None:
        return found
    if _GLUED_PROSE.search(left) or _GLUED_PROSE.search(right):
        return Outcome.KIND
    try:
        one, other = read(left), read(right)
    except UnreadableError:
        return Outcome.NOTATION
    outcome = _compare(one, other, algebra or (lambda *_: Outcome.ALGEBRA))
    if outcome is Outcome.DIFFERENT and re.sub(r"[\s,()]", "", left) == re.sub(r"[\s,()]", "", right):
        return Outcome.NOTATION  # 1,234 and (1, 234)
    return outcome


def _same_if(condition: bool) -> Outcome:
    return Outcome.SAME if condition else Outcome.DIFFERENT


def _compare_labels(left: str, right: str) -> Outcome | None:
    """Choice letters, ratios, clock times, numbers with a base and words: compared as they are written."""
    left, right = (re.sub(r"[⟦⟧]", "", text).strip() for text in (left, right))
    choices = _choice(left), _choice(right)
    if all(choices):
        return _same_if(choices[0] == choices[1])
    if _RATIO.fullmatch(left) and _RATIO.fullmatch(right):
        parts = [[int(part) for part in text.split(":")] for text in (left, right)]
        is_multiple = len(parts[0]) == len(parts[1]) and parts[0][0] * parts[1][1] == parts[0][1] * parts[1][0]
        return Outcome.SAME if parts[0] == parts[1] else Outcome.NOTATION if is_multiple else Outcome.DIFFERENT
    bases = _BASE.fullmatch(left), _BASE.fullmatch(right)
    if bases[0] or bases[1]:
        return _compare_bases(left, right, bases)
    return _compare_words(left, right)


def _choice(text: str) -> str | None:
    alone, labelled = _CHOICE.fullmatch(text), _CHOICE_WITH_TEXT.fullmatch(text)
    return alone[1] if alone else next(filter(None, labelled.groups())) if labelled else None


def _compare_bases(left: str, right: str, bases: tuple[re.Match[str] | None, re.Match[str] | None]) -> Outcome | None:
    """121_3 and 121: the base that only one side states is the one that was asked for."""
    try:
        values = [
            int(match[1], int(match[2])) if match else int(text)
            for match, text in zip(bases, (left, right), strict=True)
        ]
    except ValueError:  # digits that their base does not have, or an expression on the other side
        return Outcome.NOTATION
    digits = [match[1] if match else text for match, text in zip(bases, (left, right), strict=True)]
    if all(bases):
        return _same_if(values[0] == values[1])
    return Outcome.SAME if digits[0] == digits[1] else Outcome.NOTATION if values[0] == values[1] else Outcome.DIFFERENT


def _is_phrase(text: str) -> bool:
    """Words rather than a product of letters."""
    return bool(_PHRASE.fullmatch(text)) and (" " in text or len(text) > 3 or text.casefold() in ("yes", "no", "odd"))


def _compare_words(left: str, right: str) -> Outcome | None:
    if not _is_phrase(left) and not _is_phrase(right):
        return None
    if not (_PHRASE.fullmatch(left) and _PHRASE.fullmatch(right)):
        return Outcome.KIND
    one, other = (re.sub(r"[\s'.\-]+", "", text).casefold() for text in (left, right))
    if one == other:
        return Outcome.SAME
    are_names = " " not in left + right and one not in other and other not in one and min(len(one), len(other)) > 1
    return Outcome.DIFFERENT if are_names and not left.isupper() else Outcome.WORDING


def _compare(answer: Part, gold: Part, algebra: Algebra) -> Outcome:
    if isinstance(answer, Group) and isinstance(gold, Group):
        return _with_names(answer, gold, _compare_groups(answer, gold, algebra))
    if isinstance(answer, Leaf) and isinstance(gold, Leaf):
        return _compare_leaves(answer, gold, algebra)
    group, leaf = (answer, gold) if isinstance(answer, Group) else (gold, answer)
    assert isinstance(group, Group)
    assert isinstance(leaf, Leaf)
    if leaf.number is not None:
        return Outcome.DIFFERENT
    if leaf.unit or _PROSE.search(leaf.text) or any(isinstance(part, Leaf) and part.name for part in group.parts):
        return Outcome.NOTATION
    sides = [part if isinstance(part, Leaf) else Leaf(part.text) for part in (answer, gold)]
    found = algebra(*sides)  # a union, a set-builder, a column vector, an inequality
    return found if found is not Outcome.DIFFERENT or group.opening != "" else Outcome.NOTATION


def _compare_groups(left: Group, right: Group, algebra: Algebra) -> Outcome:
    if left.is_ordered and right.is_ordered:
        outcome = _pairwise(left, right, algebra)
        is_interval = len(left.parts) == 2 and (left.opening, left.closing) != (right.opening, right.closing)
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
    names = [{part.name for part in group.parts} for group in (left, right)]
    if "" not in names[0] | names[1] and names[0] == names[1]:  # x = 1, y = 2 in any order
        ordered = [sorted(group.parts, key=lambda part: part.name) for group in (left, right)]
        return _all_same(_compare(a, b, algebra) for a, b in zip(*ordered, strict=True))
    return _all_same(_compare(a, b, algebra) for a, b in zip(left.parts, right.parts, strict=True))


def _compare_unordered(left: tuple[Part, ...], right: tuple[Part, ...], algebra: Algebra) -> Outcome:
    """Every part must be met by one of the other side; how often and in which order does not matter."""
    table = [[_compare(a, b, algebra) for b in right] for a in left]
    lines = [*table, *map(list, zip(*table, strict=True))]
    missing = [set(line) for line in lines if Outcome.SAME not in line]
    if not missing:
        return Outcome.SAME
    if {Outcome.DIFFERENT} in missing:
        return Outcome.DIFFERENT
    open_outcomes = missing[0] - {Outcome.DIFFERENT}
    return Outcome.ALGEBRA if Outcome.ALGEBRA in open_outcomes else next(iter(open_outcomes))


def _all_same(outcomes: Iterable[Outcome]) -> Outcome:
    found = list(outcomes)
    if Outcome.DIFFERENT in found:
        return Outcome.DIFFERENT
    unclear = [outcome for outcome in found if outcome not in (Outcome.SAME, Outcome.ALGEBRA)]
    return unclear[0] if unclear else Outcome.ALGEBRA if Outcome.ALGEBRA in found else Outcome.SAME


def _with_names(answer: Part, gold: Part, outcome: Outcome) -> Outcome:
    """Two labels must agree for two values to be the same; y, f(x) and (x) may all name a function's value."""
    one, other = sorted((answer.name, gold.name), key=len)
    if not one or one == other or outcome is Outcome.DIFFERENT:
        return outcome
    is_function = re.fullmatch(r".{1,20}\([a-z]\)", other) is not None and (
        one == "y" or other[0] == one[0] == other[:1]
    )
    return outcome if is_function and not one.endswith(")") else Outcome.NAMES


def _compare_leaves(answer: Leaf, gold: Leaf, algebra: Algebra) -> Outcome:
    if answer.is_relation or gold.is_relation:
        return _compare_relations(answer, gold, algebra)
    outcome = _compare_values(answer, gold, algebra)
    if outcome is Outcome.DIFFERENT and answer.name != gold.name and answer.name and gold.name:
        outcome = outcome if answer.number and gold.number else Outcome.NAMES  # y = 2x and x = y/2
    return _with_names(answer, gold, outcome)


def _compare_relations(answer: Leaf, gold: Leaf, algebra: Algebra) -> Outcome:
    if answer.is_relation != gold.is_relation:
        relation, value = (answer, gold) if answer.is_relation else (gold, answer)
        if "=" in relation.text or value.number is not None or value.unit:
            return Outcome.EQUATION
    sides = [leaf.text.split("=") for leaf in (answer, gold)]
    if len(sides[0]) == len(sides[1]) == 2 and squeeze(sides[0][0]) == squeeze(sides[1][0]):
        return algebra(*(Leaf(side[1].strip()) for side in sides))
    return algebra(answer, gold)


def _compare_values(answer: Leaf, gold: Leaf, algebra: Algebra) -> Outcome:
    units = answer.unit, gold.unit
    if any(unit and not is_unit(unit) for unit in units) and units[0] != units[1]:
        return Outcome.UNITS
    if units[0] and units[1] and units[0] != units[1]:
        is_same = answer.number and gold.number and answer.number.value == gold.number.value != 0
        return Outcome.DIFFERENT if is_same and all(map(is_known, units)) else Outcome.UNITS
    if "%" in units and units[0] != units[1]:
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
    outcome = (
        Outcome.DIFFERENT if differ(answer.text, gold.text) and not _may_round(answer, gold) else algebra(answer, gold)
    )
    is_case = outcome is Outcome.DIFFERENT and texts[0].casefold() == texts[1].casefold()
    return Outcome.LETTER_CASE if is_case else outcome


def _may_round(answer: Leaf, gold: Leaf) -> bool:
    return any(leaf.number is not None and leaf.number.digits >= MIN_ROUNDED_DIGITS for leaf in (answer, gold))


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
    rounded = gold if gold.digits else answer
    is_close = abs(answer.value - gold.value) <= rounded.unit_of_last / 2
    return _same_if(is_close and rounded.digits >= MIN_ROUNDED_DIGITS and _is_finer(answer, gold))


def _is_finer(answer: Number, gold: Number) -> bool:
    """Whether the answer is at least as precise as a decimal gold; whole-number golds accept no rounding."""
    if gold.digits:
        return not answer.digits or answer.unit_of_last <= gold.unit_of_last
    return gold.value.denominator != 1 or gold.unit_of_last != Fraction(0)
