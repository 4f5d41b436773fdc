r"""Read an answer from outside in, in one way: lists, tuples, intervals, labels, units, numbers; the rest stays text.

    read(r"(3, \frac{\pi}{2})")  ->  Group("(", ")", (Leaf("3", number=…), Leaf(r"\frac{\pi}{2}")))
    read("x = 1, x = -3")        ->  Group("", "", (Leaf("1", name="x"), Leaf("-3", name="x")))

The cost is linear in the text: depth, parts and digits are bounded.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import final

from redi_lab.grading.notation import canonical_unit, is_unit

_MAX_PARTS, _MAX_DEPTH, _MAX_EXPONENT = 64, 6, 400
_SEPARATOR = re.compile(r"[,;]|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
_RELATION = re.compile(r":?={1,2}|\\approx|\\simeq|\\equiv|\\in(?![a-z])")
_INEQUALITY = re.compile(r"\\(?:leq|geq|neq)(?![a-z])|[<>]")
_BRACKET = re.compile(r"\\(?:begin|end)\{[a-zA-Z*]{1,20}\}|[()\[\]{}⟦⟧]")
_THOUSANDS = re.compile(r"(?<![0-9A-Za-z.,_])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_ADJACENT = re.compile(r"\)\s*\(")
_PLUS_OR_MINUS = re.compile(r"\\pm(?![a-z])")

_SYMBOL = r"(?:\\Delta\s?)?(?:[A-Za-z]|\\[A-Za-z]{1,12})'{0,3}(?:_(?:\{[^{}]{0,30}\}|[A-Za-z0-9]|\\[A-Za-z]{1,12}))?"
_NAME = re.compile(
    rf"{_SYMBOL}(?:\s?\([^()=<>]{{0,40}}\))?|(?:\\angle\s?)?[A-Z]{{2,4}}|[A-Za-z]{{3,20}}|⟦[^⟦⟧]{{1,60}}⟧"
    rf"|\(\s?{_SYMBOL}(?:\s?,\s?{_SYMBOL}){{1,8}}\s?\)|{_SYMBOL}\s?:\s?{_SYMBOL}|\\frac\{{[A-Z]{{1,3}}\}}\{{[A-Z]{{1,3}}\}}"
)
_MONEY = re.compile(r"(?P<sign>[-+]?)(?P<unit>[＄€£¥])\s*(?P<value>[^＄€£¥]+)")
_MARKED_UNIT = re.compile(r"(?P<value>[^⟦⟧]*[^\s⟦⟧/])\s*(?P<unit>/?\s*⟦[^⟦⟧]*⟧[⟦⟧A-Za-z0-9\s/^{}\\*~.-]*)")
_BARE_UNIT = re.compile(
    r"(?P<value>[-+]?[0-9][0-9.,/ ]*|[-+]?\\frac\{[0-9]+\}\{[0-9]+\})\s*(?P<unit>[A-Za-z]{2,}[A-Za-z0-9 /^{}]*)"
)
_SIGN_UNIT = re.compile(r"(?P<value>.*[^\s%°])\s*(?P<unit>[%°＄€£¥](?:\s*⟦[^⟦⟧]*⟧)?)", re.DOTALL)

TRIGONOMETRY = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![a-z])")

_DIGITS = r"(?:[0-9]{1,3}(?:[, ][0-9]{3})+(?:\.[0-9]*)?|[0-9]+\.?[0-9]*|\.[0-9]+)"
_TIMES_TEN = r"(?:[eE]|(?:\\times|\\cdot|\*)\s?10\s?\^\s?)"
_EXPONENT = rf"{_TIMES_TEN}(?:\{{\s?(?P<braced>[-+]?[0-9]{{1,4}})\s?\}}|(?P<bare>[-+]?[0-9]{{1,4}}))"
_DECIMAL = re.compile(rf"(?P<sign>[-+]?)\s?(?P<digits>{_DIGITS})\s?(?:{_EXPONENT})?")
_FRACTION = re.compile(
    r"(?P<sign>[-+]?)\s?(?:(?P<whole>[0-9]+)\s?(?=\\frac)|(?P<spaced>[0-9]+) (?=[0-9]+\s?/))?"
    r"(?:\\frac\s?(?:\{\s?(?P<top>-?[0-9.]+)\s?\}|(?P<one>[0-9]))\s?(?:\{\s?(?P<bottom>-?[0-9.]+)\s?\}|(?P<other>[0-9]))"
    r"|(?P<over>[0-9.]+)\s?/\s?(?P<under>[0-9.]+))"
)
_PERIODIC = re.compile(r"(?P<sign>[-+]?)(?P<head>[0-9]*)\.(?P<tail>[0-9]*)\\overline\s?\{(?P<period>[0-9]+)\}")


@final
@dataclass(frozen=True, slots=True)
class Number:
    """An exact value, and the unit of the last digit of a decimal, which may have been rounded (0: exact)."""

    value: Fraction
    step: Fraction = Fraction(0)


@final
@dataclass(frozen=True, slots=True)
class Leaf:
    """One value as text, with what was recognised of it.

    Attributes:
        text: the value, without label and unit.
        name: the label that it was given, `x` of `x = 5`.
        unit: in canonical spelling; "" for none.
        number: the value, if it is a plain number or fraction.
        is_relation: an equation or inequality rather than a labelled value.
    """

    text: str
    name: str = ""
    unit: str = ""
    number: Number | None = None
    is_relation: bool = False


@final
@dataclass(frozen=True, slots=True)
class Group:
    """Several parts: "" is a bare list, "{" a set, "(" and "[" a tuple or an interval, whose order counts."""

    opening: str
    closing: str
    parts: tuple[Part, ...]
    text: str
    name: str = ""

    @property
    def is_ordered(self) -> bool:
        """Whether the order of the parts carries meaning."""
        return self.opening in ("(", "[")


Part = Leaf | Group


class UnreadableError(Exception):
    """Brackets do not match, or there are more parts, levels or conditions than can be read in one way."""


def read(text: str, depth: int = 0) -> Part:
    """Read a normalised answer.

    Raises:
        UnreadableError: see there.
    """
    if depth > _MAX_DEPTH:
        raise UnreadableError
    depths = _depths(text)
    if depth == 0:
        text = _THOUSANDS.sub(lambda m: m[0] if depths[m.start()] else m[0].replace(",", ""), text)
    pieces = _split(text, re.compile(";"))
    if len(pieces) < 2:
        pieces = _split(text, _SEPARATOR)
    if len(pieces) > 1:
        return _list(text, [read(piece, depth + 1) for piece in pieces])
    text = pieces[0] if pieces else text.strip()
    if text and _split(text, _INEQUALITY) != [text]:
        return Leaf(text, is_relation=True)
    sides = _split(text, _RELATION)
    return _related(text, sides, depth) if len(sides) > 1 else _value(text.strip("= "), depth)


def _list(text: str, parts: list[Part]) -> Part:
    if any(isinstance(part, Leaf) and part.is_relation for part in parts):
        raise UnreadableError
    names = [part.name for part in parts]
    if all(names) and len(set(names)) == len(parts):  # p = 5, q = 2 is the point (5, 2); the names are kept
        return Group("(", ")", tuple(parts), text)
    if names[0] and not any(names[1:]):  # n = 1, 2, 3: the name belongs to all
        parts = [replace(part, name=names[0]) for part in parts]
    elif len(set(names)) > 1:
        raise UnreadableError
    flat = [item for part in parts for item in (part.parts if isinstance(part, Group) and not part.opening else [part])]
    return Group("", "", tuple(flat), text, names[0])


def _related(text: str, sides: list[str], depth: int) -> Part:
    """A label and its value, `a = b ≈ 0.3` (the exact side counts), or an equation that is left as it is."""
    is_label = _NAME.fullmatch(sides[0]) is not None
    is_approximate = "\\approx" in text or "\\simeq" in text
    is_condition = "\\in" in text.partition(sides[0])[2][:6] and not sides[1].startswith(tuple("([{\\"))
    values = sides[1:] if is_label else sides
    is_chain = not is_approximate and any(_NAME.fullmatch(value) for value in values[:-1])  # a = b = c
    if is_condition or is_chain or (len(sides) == 2 and not is_label and not is_approximate):
        return Leaf(text, is_relation=True)
    part = _value(values[0] if is_approximate else values[-1], depth)
    return replace(part, name=re.sub(r"[\s{}⟦⟧]", "", sides[0])) if is_label else part


def _value(text: str, depth: int) -> Part:
    if len(_PLUS_OR_MINUS.findall(text)) == 1:
        both = [_PLUS_OR_MINUS.sub(sign, text).removeprefix("+").strip() for sign in "+-"]
        return Group("", "", tuple(map(_leaf, both)), text)
    if text.startswith("(") and "," in text:  # (1,2)(2,1)
        tuples = _ADJACENT.sub("),(", text)
        if tuples != text and len(_split(tuples, _SEPARATOR)) == len(_ADJACENT.findall(text)) + 1:
            return read(tuples, depth + 1)
    is_set = text.startswith("\\{") and text.endswith("\\}")
    opening, closing = ("{", "}") if is_set else (text[:1], text[-1:])
    inside = text[2:-2] if is_set else text[1:-1]
    if len(text) < 2 or opening not in tuple("([{") or closing not in tuple(")]}") or not _is_closed(text.lstrip("\\")):
        return _leaf(text)
    if is_set and (not inside.strip() or re.search(r"\\mid|\||:", inside)):
        return Leaf("\\emptyset" if not inside.strip() else text)
    if opening == "{" and not is_set:
        return read(inside, depth + 1)
    pieces = _split(inside, _SEPARATOR)
    if not pieces:  # nothing but commas would be met by anything
        raise UnreadableError
    if len(pieces) == 1 and not is_set:
        return read(inside, depth + 1) if (opening, closing) == ("(", ")") and "\\" not in inside[:1] else _leaf(text)
    return Group(opening, closing, tuple(read(piece, depth + 1) for piece in pieces), text)


def _leaf(text: str) -> Leaf:
    value, unit = _without_unit(text.strip())
    return Leaf(value, unit=canonical_unit(unit), number=read_number(value))


def _without_unit(text: str) -> tuple[str, str]:
    money = _MONEY.fullmatch(text)
    if money:
        return money["sign"] + money["value"].strip(), money["unit"]
    for pattern in (_MARKED_UNIT, _BARE_UNIT, _SIGN_UNIT):
        match = pattern.fullmatch(text)
        if match and "°" in match["unit"] and TRIGONOMETRY.search(match["value"]):
            break  # an angle inside
        if match and (pattern is not _BARE_UNIT or is_unit(canonical_unit(match["unit"]))):
            return match["value"].strip(), match["unit"]
    return text, ""


def read_number(text: str) -> Number | None:
    """The exact value of a decimal, a fraction or a mixed number; None for anything else."""
    try:
        return _decimal(text) or _fraction(text) or _periodic(text)
    except (ValueError, ZeroDivisionError):  # "1.2.3" between the braces of a fraction; 1/0
        return None


def _decimal(text: str) -> Number | None:
    match = _DECIMAL.fullmatch(text)
    exponent = int(match["braced"] or match["bare"] or 0) if match else 0
    if match is None or abs(exponent) > _MAX_EXPONENT:
        return None
    whole, _, decimals = re.sub("[, ]", "", match["digits"]).partition(".")
    step = Fraction(10) ** (exponent - len(decimals))
    return Number(int(match["sign"] + whole + decimals) * step, step if decimals or exponent else Fraction(0))


def _fraction(text: str) -> Number | None:
    match = _FRACTION.fullmatch(text)
    if match is None:
        return None
    top, bottom = match["top"] or match["one"] or match["over"], match["bottom"] or match["other"] or match["under"]
    value, whole = Fraction(top) / Fraction(bottom), match["whole"] or match["spaced"]
    if whole and not 0 < value < 1:
        return None  # a product
    return Number((-1 if match["sign"] == "-" else 1) * (int(whole or 0) + value))


def _periodic(text: str) -> Number | None:
    match = _PERIODIC.fullmatch(text)
    if match is None:
        return None
    value = int(match["head"] + match["tail"] or 0) + Fraction(int(match["period"]), 10 ** len(match["period"]) - 1)
    return Number((-1 if match["sign"] == "-" else 1) * value / 10 ** len(match["tail"]))


def _split(text: str, pattern: re.Pattern[str]) -> list[str]:
    """The non-empty pieces between matches of `pattern` outside all brackets.

    Raises:
        UnreadableError: there are more pieces than any answer has, or brackets do not match.
    """
    depths = _depths(text)
    pieces, start = [], 0
    for match in pattern.finditer(text):
        if depths[match.start()] == 0:
            pieces.append(text[start : match.start()])
            start = match.end()
    found = [piece.strip() for piece in (*pieces, text[start:]) if piece.strip()]
    if len(found) > _MAX_PARTS:
        raise UnreadableError
    return found


def _depths(text: str) -> list[int]:
    """For every character, how many brackets and environments are open there.

    Raises:
        UnreadableError: brackets do not match.
    """
    depths, depth, start = [], 0, 0
    for match in _BRACKET.finditer(text):
        depths.extend([depth] * (match.start() - start))
        is_opening = match[0] in "([{⟦" or match[0].startswith("\\begin")
        depth += 1 if is_opening else -1
        if depth < 0:
            raise UnreadableError
        depths.extend([depth] * len(match[0]))
        start = match.end()
    if depth:
        raise UnreadableError
    return depths + [0] * (len(text) - start)


def _is_closed(text: str) -> bool:
    """Whether the first bracket is closed by the last, and not earlier."""
    return min(_depths(text)[:-1]) > 0
