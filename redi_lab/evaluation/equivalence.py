r"""Compare two final answers by the conventions of docs/grading.md, without an algebra system.

    compare_answers(r"x \in [2, \infty)", r"[2,\infty)")   ->  Outcome.SAME
    compare_answers(r"\frac{1}{2}, 3", r"\frac{1}{2}")     ->  Outcome.DIFFERENT
    compare_answers(r"\sum_{k=1}^n k", r"n(n+1)/2")        ->  Outcome.UNDECIDED: ask the algebra system

Runs in the parent process: time is linear in the text for one part and quadratic in the number of parts, which is
bounded, as are depth and the size of numbers.
"""

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Iterable
from enum import StrEnum
from fractions import Fraction

from redi_lab.evaluation.answers import normalise, plain_number, spell_symbols
from redi_lab.evaluation.expressions import Expression, read_expression
from redi_lab.evaluation.functions import Number, TooLargeError, as_complex
from redi_lab.evaluation.quantities import Quantity, UnitsDiffer, read_quantity, unwrap_text
from redi_lab.evaluation.structure import (
    Group,
    Matrix,
    Scalar,
    Structure,
    UnstructuredError,
    join_thousands,
    read_structure,
)

MIN_ROUNDED_DIGITS = 3  # significant digits that a rounded decimal must show to stand for an exact value

_TOLERANCE = 1e-9
_POSITIVE_POINTS = ((0.7310585, 0.3132617), (1.2689414, 0.5671433), (2.2360679, 0.1931471))
_WHOLE_POINTS = (4, 5, 7, 12, 18, 31, 47, 100)
_NEGATIVE_POINT = (-1.6180339, 0.4142135)
_CHOICE = re.compile(r"\(?([A-J])\)?")
_CHOICE_WITH_TEXT = re.compile(r"\(([A-J])\).*|([A-J])[).:]\s*\S.*", re.DOTALL)
_DECIMAL = re.compile(r"[-+]?(?:[0-9]+\.[0-9]+|\.[0-9]+)")
_GLUED_PROSE = re.compile(r"(?<![A-Za-z\\])(?!\\)[A-Za-z']{18,}")  # a sentence whose spaces were stripped
_DEGREES_INSIDE = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![a-z]).*(?:\\circ|°|\\degree)", re.DOTALL)
_WORDS = re.compile(r"[A-Za-z][A-Za-z '\-]*[A-Za-z]")
_BASE = re.compile(r"\(?([0-9A-F]+)\)?_\{?\(?([0-9]+)\)?\}?")
_CLOCK = re.compile(r"[0-9]{1,2}:[0-9]{2}(?::[0-9]{2})?")


class Outcome(StrEnum):
    """What a comparison has found; the value is the reason that a grade states."""

    SAME = "same answer"
    DIFFERENT = "different answer"
    UNDECIDED = "needs algebra"
    LETTER_CASE = "same but for upper and lower case of its letters"
    UNITS = "same number, other unit"
    TOO_LARGE = "number too large to compare"
    WORDING = "one text contains the other"
    PROSE = "prose in place of an answer"
    KIND = "a text against a number"


def compare_answers(answer: str, gold: str) -> Outcome:
    """Compare an answer with the accepted one. Never raises, whatever the texts hold."""
    left, right = spell_symbols(answer), spell_symbols(gold)
    if _GLUED_PROSE.search(left) and not _GLUED_PROSE.search(right):
        return Outcome.PROSE
    if _DEGREES_INSIDE.search(left) or _DEGREES_INSIDE.search(right):
        return Outcome.UNDECIDED
    outcome = _compare_labels(normalise(left), normalise(right))
    if outcome is not None:
        return outcome
    try:
        outcomes = [_compare(one, other) for one in _readings(left) for other in _readings(right)]
    except (UnstructuredError, RecursionError):
        return Outcome.UNDECIDED
    return Outcome.SAME if Outcome.SAME in outcomes else outcomes[0]


def _readings(text: str) -> list[Structure]:
    """The structures that a text may have: 100,200 is a number first, and a list if that fits."""
    tidy = normalise(unwrap_text(text))
    joined = join_thousands(tidy)
    return [read_structure(reading) for reading in dict.fromkeys((joined, tidy))]


def _compare_labels(left: str, right: str) -> Outcome | None:
    """Choice letters, words, clock times and numbers with a base: compared as they are written."""
    if left == right:
        return Outcome.SAME
    for one, other in ((left, right), (right, left)):
        letter, labelled = _CHOICE.fullmatch(one), _CHOICE_WITH_TEXT.fullmatch(other)
        if letter and labelled:
            return _same_if(letter[1] == (labelled[1] or labelled[2]))
    if _CLOCK.fullmatch(left) and _CLOCK.fullmatch(right):
        return _same_if(left.lstrip("0") == right.lstrip("0"))
    bases = _BASE.fullmatch(left), _BASE.fullmatch(right)
    if bases[0] or bases[1]:
        return _compare_bases(bases, left, right)
    if _is_prose(left) != _is_prose(right) and any(map(_has_value, (left, right))):
        return Outcome.KIND
    return _compare_words(left, right)


def _is_prose(text: str) -> bool:
    """Words rather than a product of letters."""
    return bool(_WORDS.fullmatch(text)) and (" " in text or len(text) > 4)


def _has_value(text: str) -> bool:
    """Whether it states a value, or several."""
    return not _is_prose(text) and (any(map(str.isdigit, text)) or read_expression(text) is not None)


def _compare_bases(bases: tuple[re.Match[str] | None, re.Match[str] | None], left: str, right: str) -> Outcome | None:
    """121_3 and 121: the base that only one side states is the one that was asked for."""
    one, other = bases
    if one and other:
        return _same_if(_in_base(one) == _in_base(other))
    stated = one or other
    assert stated is not None
    return _same_if(stated[1] == (right if one else left)) if (right if one else left).isalnum() else None


def _in_base(match: re.Match[str]) -> tuple[str, str] | int:
    """The value of digits in their base; digits and base as written where they do not fit together."""
    try:
        return int(match[1], int(match[2]))
    except ValueError:
        return match[1], match[2]


def _compare_words(left: str, right: str) -> Outcome | None:
    if not (_WORDS.fullmatch(left) and _WORDS.fullmatch(right)):
        return None
    one, other = (re.sub(r"[\s'\-]+", "", text).casefold() for text in (left, right))
    if min(len(one), len(other)) < 3 and one != other:
        return None  # ab and ba may be products
    if one == other:
        return Outcome.SAME
    if max(len(one), len(other)) < 5:
        return None
    return Outcome.WORDING if one in other or other in one else Outcome.DIFFERENT


def _same_if(condition: bool) -> Outcome:
    return Outcome.SAME if condition else Outcome.DIFFERENT


def _compare(answer: Structure, gold: Structure) -> Outcome:
    if isinstance(answer, Matrix) and isinstance(gold, Matrix):
        if [len(row) for row in answer.rows] != [len(row) for row in gold.rows]:
            return Outcome.DIFFERENT
        cells = (
            (a, b) for left, right in zip(answer.rows, gold.rows, strict=True) for a, b in zip(left, right, strict=True)
        )
        return _all_same(_compare(a, b) for a, b in cells)
    if isinstance(answer, Matrix) or isinstance(gold, Matrix):
        return Outcome.DIFFERENT if _is_number(answer) or _is_number(gold) else Outcome.UNDECIDED
    if isinstance(answer, Group) or isinstance(gold, Group):
        return _compare_groups(answer, gold)
    return _compare_scalars(answer, gold)


def _compare_groups(answer: Structure, gold: Structure) -> Outcome:
    left, right = _as_group(answer), _as_group(gold)
    if "≠" in (left.opening, right.opening):
        if left.opening != right.opening:
            return Outcome.UNDECIDED
        return _compare(left.parts[0], right.parts[0])
    if left.is_ordered and right.is_ordered:
        return _compare_ordered(left, right)
    if left.is_ordered != right.is_ordered:
        return _compare_bare_with_tuple(left, right)
    return _compare_unordered(left.parts, right.parts, "∪" in (left.opening, right.opening))


def _is_number(structure: Structure) -> bool:
    """Whether it is one value that can be read, so that it cannot be a tuple, an interval or a matrix."""
    return isinstance(structure, Scalar) and read_expression(read_quantity(structure.text).text) is not None


def _as_group(structure: Structure) -> Group:
    return structure if isinstance(structure, Group) else Group("", "", (structure,))


def _compare_bare_with_tuple(left: Group, right: Group) -> Outcome:
    """A bare list may be meant as a tuple, then its order counts; or it may list tuples, of which there is one."""
    ordered, other = (left, right) if left.is_ordered else (right, left)
    if other.opening == "{":
        return Outcome.DIFFERENT
    if len(other.parts) == 1:
        if isinstance(other.parts[0], Group):
            return _compare(other.parts[0], ordered)
        return Outcome.DIFFERENT if _is_number(other.parts[0]) else Outcome.UNDECIDED
    if any(isinstance(part, Group | Matrix) for part in other.parts):
        return _compare_unordered((ordered,), other.parts, other.opening == "∪")
    has_names = any(isinstance(part, Scalar) and part.name for part in ordered.parts)
    if has_names and all(isinstance(part, Scalar) for part in ordered.parts):
        # x = 1, y = 2 against the bare list "2, 1": names against none, any order.
        return _compare_unordered(left.parts, right.parts)
    if len(ordered.parts) != len(other.parts):
        return Outcome.DIFFERENT
    return _all_same(_compare(a, b) for a, b in zip(ordered.parts, other.parts, strict=True))


def _compare_ordered(left: Group, right: Group) -> Outcome:
    if len(left.parts) != len(right.parts):
        return Outcome.DIFFERENT
    names = [{part.name for part in group.parts if isinstance(part, Scalar)} for group in (left, right)]
    if "" not in names[0] | names[1] and names[0] == names[1]:
        return _compare_unordered(left.parts, right.parts)
    outcome = _all_same(_compare(a, b) for a, b in zip(left.parts, right.parts, strict=True))
    is_interval = len(left.parts) == 2
    if outcome is Outcome.SAME and is_interval and (left.opening, left.closing) != (right.opening, right.closing):
        return Outcome.DIFFERENT
    return outcome


def _compare_unordered(left: tuple[Structure, ...], right: tuple[Structure, ...], is_union: bool = False) -> Outcome:
    """Every part must be met by one of the other side; how often and in which order is no matter."""
    table = [[_compare(a, b) for b in right] for a in left]
    columns = [[row[index] for row in table] for index in range(len(right))]
    missing = [line for line in (*table, *columns) if Outcome.SAME not in line]
    if not missing:
        return Outcome.SAME
    if any(Outcome.UNDECIDED in row for row in table):
        return Outcome.UNDECIDED
    for line in missing:
        if set(line) == {Outcome.DIFFERENT}:
            # Intervals may be cut differently: (0, 1) ∪ [1, 2) is (0, 2).
            return Outcome.UNDECIDED if is_union and len(left) != len(right) else Outcome.DIFFERENT
    return next(outcome for line in missing for outcome in line if outcome is not Outcome.DIFFERENT)


def _all_same(outcomes: Iterable[Outcome]) -> Outcome:
    found = list(outcomes)
    if Outcome.DIFFERENT in found:
        return Outcome.DIFFERENT
    return next((outcome for outcome in found if outcome is not Outcome.SAME), Outcome.SAME)


def _compare_scalars(answer: Scalar, gold: Scalar) -> Outcome:
    if answer.name and gold.name and (answer.has_equation or gold.has_equation):
        return _compare_equations(answer, gold)
    if gold.has_equation and not answer.name:
        outcome = _compare_values(answer.text, gold.text)
        return outcome if outcome is Outcome.DIFFERENT else Outcome.UNDECIDED
    texts = [
        (one, other) for one in (answer.text, *answer.alternatives[:1]) for other in (gold.text, *gold.alternatives)
    ]
    outcomes = [_compare_values(one, other) for one, other in texts]
    if Outcome.SAME in outcomes:
        return Outcome.UNDECIDED if _names_clash(_plain_name(answer.name), _plain_name(gold.name)) else Outcome.SAME
    return outcomes[0]


def _names_clash(answer: str, gold: str) -> bool:
    """Whether labels name two things, as x = 1 and y = 1 do; y, f(x) and a bare (x) may all name a function's value."""
    if not answer or not gold or answer == gold:
        return False
    shorter, longer = sorted((answer, gold), key=len)
    return not (longer.endswith(")") and (shorter == "y" or (shorter[0] == "(" and longer.endswith(shorter))))


def _plain_name(name: str) -> str:
    return re.sub(r"[{}\s]|\\(?:text|mathrm|mathit)", "", name)


def _compare_equations(answer: Scalar, gold: Scalar) -> Outcome:
    """Equations are the same when the differences of their sides are proportional."""
    sides = [f"({scalar.name})-({scalar.text})" for scalar in (answer, gold)]
    left, right = read_expression(sides[0]), read_expression(sides[1])
    if left is None or right is None:
        return Outcome.UNDECIDED
    if left.variables != right.variables:
        return Outcome.DIFFERENT
    ratios = []
    for point in _points(left.variables):
        try:
            ratios.append(as_complex(left.value(point)) / as_complex(right.value(point)))
        except (ArithmeticError, ValueError):
            return Outcome.UNDECIDED
    is_proportional = all(_is_close(ratio, ratios[0]) for ratio in ratios)
    return _same_if(is_proportional)


def _compare_values(answer: str, gold: str) -> Outcome:
    if answer == gold:
        return Outcome.SAME
    left, right = read_quantity(answer), read_quantity(gold)
    if left.is_text or right.is_text:
        found = _compare_words(left.text, right.text)
        return Outcome.UNDECIDED if found is None else found
    outcomes = [_compare_numbers(a, b) for a, b in left.readings_beside(right)]
    outcome = Outcome.SAME if Outcome.SAME in outcomes else outcomes[0]
    return outcome if outcome is not Outcome.SAME else _compare_units(left, right)


def _compare_units(left: Quantity, right: Quantity) -> Outcome:
    verdict = left.units_differ(right)
    return {UnitsDiffer.NO: Outcome.SAME, UnitsDiffer.YES: Outcome.DIFFERENT, UnitsDiffer.MAYBE: Outcome.UNITS}[verdict]


def _compare_numbers(answer: str, gold: str) -> Outcome:
    numbers = plain_number(answer), plain_number(gold)
    if numbers[0] is not None and numbers[1] is not None:
        return _same_if(numbers[0] == numbers[1] or _is_rounding(answer, numbers[0], gold, numbers[1]))
    left, right = read_expression(answer), read_expression(gold)
    if left is None or right is None:
        return Outcome.UNDECIDED
    outcome = _compare_expressions(left, right)
    if outcome is not Outcome.SAME and not left.variables and not right.variables:
        return _compare_rounded(answer, left, gold, right, outcome)
    if outcome is Outcome.DIFFERENT and answer.casefold() != answer:
        return _without_case(answer, gold)
    if outcome is Outcome.DIFFERENT and gold.casefold() != gold:
        return _without_case(answer, gold)
    return outcome


def _without_case(answer: str, gold: str) -> Outcome:
    left, right = read_expression(_folded(answer)), read_expression(_folded(gold))
    if left is not None and right is not None and _compare_expressions(left, right) is Outcome.SAME:
        return Outcome.LETTER_CASE
    return Outcome.DIFFERENT


def _folded(text: str) -> str:
    """Lower case outside commands."""
    return re.sub(r"\\[A-Za-z]+|[A-Z]", lambda match: match[0] if match[0][0] == "\\" else match[0].lower(), text)


def _compare_expressions(left: Expression, right: Expression) -> Outcome:
    """Same if equal wherever both exist; different if equal nowhere; anything between is for algebra."""
    is_ambiguous = left.is_ambiguous or right.is_ambiguous
    variables = left.variables | right.variables
    if left.has_steps or right.has_steps:
        return _compare_steps(left, right, variables)
    agreements = _agreements(left, right, _points(variables))
    if agreements is None:
        return Outcome.TOO_LARGE
    if agreements and all(agreements):
        return Outcome.SAME
    if agreements and not any(agreements) and not is_ambiguous:
        return Outcome.DIFFERENT
    return Outcome.UNDECIDED


def _compare_steps(left: Expression, right: Expression, variables: frozenset[str]) -> Outcome:
    """With floors and ceilings, whole numbers decide what differs, and other points must agree for the same."""
    names = sorted(variables)
    whole: list[dict[str, Number]] = [
        {name: Fraction(start + 3 * index) for index, name in enumerate(names)} for start in _WHOLE_POINTS
    ]
    on_whole, elsewhere = _agreements(left, right, whole), _agreements(left, right, _points(variables))
    if on_whole is None or elsewhere is None:
        return Outcome.TOO_LARGE
    if False in on_whole:
        return Outcome.DIFFERENT
    return Outcome.SAME if on_whole and all(elsewhere) else Outcome.UNDECIDED


def _agreements(left: Expression, right: Expression, points: list[dict[str, Number]]) -> list[bool] | None:
    """Whether the two agree at each point where both exist; None where one grows too large."""
    agreements = []
    for point in points:
        try:
            agreements.append(_is_equal(left.value(point), right.value(point)))
        except TooLargeError:
            return None
        except (ArithmeticError, ValueError):
            continue
    return agreements


def _points(variables: frozenset[str]) -> list[dict[str, Number]]:
    """Values that no identity holds at by accident; negative ones too, where √x² and x part."""
    if not variables:
        return [{}]
    names = sorted(variables)
    starts = (*_POSITIVE_POINTS, _NEGATIVE_POINT)
    return [{name: complex(start + step * index) for index, name in enumerate(names)} for start, step in starts]


def _is_equal(left: Number, right: Number) -> bool:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    return _is_close(as_complex(left), as_complex(right))


def _is_close(left: complex, right: complex) -> bool:
    return left == right or cmath.isclose(left, right, rel_tol=_TOLERANCE, abs_tol=1e-12)


def _compare_rounded(answer: str, left: Expression, gold: str, right: Expression, otherwise: Outcome) -> Outcome:
    try:
        is_same = _is_rounding(answer, left.value({}), gold, right.value({}))
    except (ArithmeticError, ValueError):
        return otherwise
    return Outcome.SAME if is_same else otherwise


def _is_rounding(answer: str, left: Number, gold: str, right: Number) -> bool:
    """Whether the answer rounds to a decimal gold (4.031882 to 4.03188), or is a rounded exact gold (0.333 for 1/3)."""
    return _rounds_to(left, gold) or (plain_number(gold) is None and _rounds_to(right, answer))


def _rounds_to(value: Number, decimal: str) -> bool:
    if not _DECIMAL.fullmatch(decimal):
        return False
    if len(decimal.replace(".", "").lstrip("+-0")) < MIN_ROUNDED_DIGITS:
        return False
    number = as_complex(value)
    places = len(decimal.partition(".")[2])
    half_unit = 0.5 * 10.0**-places
    return (
        abs(number.imag) < _TOLERANCE
        and math.isfinite(number.real)
        and abs(number.real - float(decimal)) <= half_unit * (1 + 1e-9)
    )
