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

from redi_lab.grading.units import canonical_unit, is_unit

_MAX_PARTS, _MAX_DEPTH, _MAX_EXPONENT = 64, 6, 400
_SEPARATOR = re.compile(r"[,;]|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
_SEMICOLON, _RELATION, _UNION = (
    re.compile(r";"),
    re.compile(r":?={1,2}|\\approx|\\simeq|\\equiv|\\in(?![a-z])"),
    re.compile(r"\\cup"),
)
_INEQUALITY = re.compile(r"\\(?:leq|geq|neq)(?![a-z])|[<>]")
_BRACKET = re.compile(r"\\(?:begin|end)\{[a-zA-Z*]{1,20}\}|[()\[\]{}⟦⟧]")
_THOUSANDS = re.compile(r"(?<![0-9A-Za-z.,_])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_ADJACENT = re.compile(r"\)\s*\(")
_PLUS_OR_MINUS = re.compile(r"\\pm(?![a-z])")

_SYMBOL = (
    r"(?:\\Delta\s?)?(?:[A-Za-z]|\\[A-Za-z]{1,12})'{0,3}(?:_(?:\{[^{}]{0,30}\}|[A-Za-z0-9]|\\[A-Za-z]{1,12}))?'{0,3}"
)
_NAME = re.compile(
    rf"{_SYMBOL}(?:\s?\([^()=<>]{{0,40}}\))?|(?:\\(?:angle|triangle|overline)\s?)?\{{?[A-Z]{{2,4}}\}}?|[A-Za-z]{{3,20}}"
    rf"|\(\s?{_SYMBOL}(?:\s?,\s?{_SYMBOL}){{1,8}}\s?\)|⟦[^⟦⟧]{{1,60}}⟧"
    rf"|{_SYMBOL}\s?:\s?{_SYMBOL}|\\frac\{{[A-Z]{{1,3}}\}}\{{[A-Z]{{1,3}}\}}"
)
_MONEY = re.compile(
    r"(?P<sign>[-+]?)(?P<unit>[＄€£¥])\s*(?P<value>[^＄€£¥]+)|(?P<amount>[^＄€£¥]+?)\s*(?P<after>[＄€£¥])"
)
_MARKED_UNIT = re.compile(r"(?P<value>[^⟦⟧]*[^\s⟦⟧/])\s*(?P<unit>/?\s*⟦[^⟦⟧]*⟧[⟦⟧A-Za-z0-9\s/^{}\\*~.-]*)")
_BARE_UNIT = re.compile(
    r"(?P<value>[-+]?[0-9][0-9.,/ ]*|[-+]?\\frac\{[0-9]+\}\{[0-9]+\})\s*(?P<unit>[A-Za-z]{2,}[A-Za-z0-9 /^{}]*|[%°])"
)
_SIGN_UNIT = re.compile(r"(?P<value>.*[^\s])\s*(?P<unit>[%°])(?P<rest>\s*⟦[^⟦⟧]*⟧)?", re.DOTALL)

TRIGONOMETRY = re.compile(r"(?:sin|cos|tan|cot|sec|csc)(?![a-z])")

_DIGITS = r"(?:[0-9]{1,3}(?:[, ][0-9]{3})+(?:\.[0-9]*)?|[0-9]+\.?[0-9]*|\.[0-9]+)"
_TIMES_TEN = r"(?:\\times|\\cdot|\*)\s?10\s?\^\s?(?:\{\s?(?P<ten>[-+]?[0-9]{1,4})\s?\}|(?P<short>[-+]?[0-9]{1,4}))"
_DECIMAL = re.compile(rf"(?P<sign>[-+]?)\s?(?P<digits>{_DIGITS})\s?(?:[eE](?P<e>[-+]?[0-9]{{1,4}})|{_TIMES_TEN})?")
_POWER_OF_TEN = re.compile(r"(?P<sign>[-+]?)10\s?\^\s?(?:\{\s?(?P<ten>[-+]?[0-9]{1,3})\s?\}|(?P<short>-?[0-9]{1,3}))")
_FRACTION = re.compile(
    r"(?P<sign>[-+]?)\s?(?:(?P<whole>[0-9]+)\s?(?=\\frac)|(?P<spaced>[0-9]+) (?=[0-9]+\s?/))?"
    r"(?:\\frac\s?(?:\{\s?(?P<top>-?[0-9.]+)\s?\}|(?P<one>[0-9]))\s?(?:\{\s?(?P<bottom>-?[0-9.]+)\s?\}|(?P<other>[0-9]))"
    r"|(?P<over>[0-9.]+)\s?/\s?(?P<under>[0-9.]+))"
)
_PERIODIC = re.compile(r"(?P<sign>[-+]?)(?P<whole>[0-9]*)\.(?P<head>[0-9]*)\\overline\s?\{(?P<period>[0-9]+)\}")


@final
@dataclass(frozen=True, slots=True)
class Number:
    """An exact value; `digits` and `unit_of_last` of a decimal that may have been rounded (0 digits: exact)."""

    value: Fraction
    digits: int = 0
    unit_of_last: Fraction = Fraction(0)


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
    """Several parts: "" is a bare list, "{" a set, "(" and "[" a tuple or an interval."""

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
    pieces = _split(text, _SEMICOLON)
    if len(pieces) == 1:
        pieces = _split(text, _SEPARATOR)
    if len(pieces) > 1:
        return _list(text, [read(piece, depth + 1) for piece in pieces])
    text = pieces[0] if pieces else text.strip()
    if text and _split(text, _INEQUALITY) != [text]:
        return Leaf(text, is_relation=True)
    sides = _split(text, _RELATION)
    if len(sides) > 1:
        return _related(text, sides, depth)
    return _value(text.strip("= "), depth)


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
    if is_condition or (len(sides) == 2 and not is_label and not is_approximate):
        return Leaf(text, is_relation=True)
    values = sides[1:] if is_label else sides
    if not is_approximate and any(_NAME.fullmatch(value) for value in values[:-1]):
        return Leaf(text, is_relation=True)  # a = b = c
    part = _value(values[0] if is_approximate else values[-1], depth)
    return replace(part, name=re.sub(r"[\s{}⟦⟧]", "", sides[0])) if is_label else part


def _value(text: str, depth: int) -> Part:
    signs = _PLUS_OR_MINUS.findall(text)
    if len(signs) == 1:
        return Group(
            "", "", tuple(_leaf(_PLUS_OR_MINUS.sub(sign, text).removeprefix("+").strip()) for sign in "+-"), text
        )
    if text.startswith("(") and _ADJACENT.search(text) and "," in text:
        tuples = _ADJACENT.sub("),(", text)
        if len(_split(tuples, _SEPARATOR)) == len(_ADJACENT.findall(text)) + 1:
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
        return (
            ((money["sign"] or "") + money["value"], money["unit"])
            if money["unit"]
            else (money["amount"], money["after"])
        )
    for pattern in (_MARKED_UNIT, _BARE_UNIT, _SIGN_UNIT):
        match = pattern.fullmatch(text)
        if match and TRIGONOMETRY.search(match["value"]) and "°" in match["unit"]:
            break  # an angle inside
        if match and not match["value"].endswith(("%", "°")) and _may_be_unit(match["unit"], pattern is _BARE_UNIT):
            return match["value"].strip(), match["unit"] + (match.groupdict().get("rest") or "")
    return text, ""


def _may_be_unit(unit: str, is_bare: bool) -> bool:
    return not is_bare or is_unit(canonical_unit(unit))


def read_number(text: str) -> Number | None:
    """The exact value of a plain decimal, power of ten, fraction or mixed number; None for anything else."""
    try:
        return _decimal(text) or _fraction(text)
    except (ValueError, ZeroDivisionError):  # "1.2.3" between the braces of a fraction; 1/0
        return None


def _decimal(text: str) -> Number | None:
    match = _DECIMAL.fullmatch(text)
    if match is None:
        power = _POWER_OF_TEN.fullmatch(text)
        return (
            Number((-1 if power["sign"] == "-" else 1) * Fraction(10) ** int(power["ten"] or power["short"]))
            if power
            else None
        )
    exponent = int(match["e"] or match["ten"] or match["short"] or 0)
    digits = re.sub("[, ]", "", match["digits"])
    if abs(exponent) > _MAX_EXPONENT:
        return None
    whole, _, decimals = digits.partition(".")
    value = Fraction((match["sign"] or "") + digits.rstrip(".")) * Fraction(10) ** exponent
    if not decimals and not exponent:
        return Number(value)
    return Number(value, len((whole + decimals).lstrip("0")), Fraction(10) ** (exponent - len(decimals)))


def _fraction(text: str) -> Number | None:
    match = _FRACTION.fullmatch(text)
    if match is None:
        return _periodic(text)
    top, bottom = match["top"] or match["one"] or match["over"], match["bottom"] or match["other"] or match["under"]
    value, whole = Fraction(top) / Fraction(bottom), match["whole"] or match["spaced"]
    if whole and not 0 < value < 1:
        return None  # a product
    return Number((-1 if match["sign"] == "-" else 1) * (int(whole or 0) + value))


def _periodic(text: str) -> Number | None:
    r"""0.1\overline{6} is 1/6."""
    match = _PERIODIC.fullmatch(text)
    if match is None:
        return None
    value = int(match["whole"] + match["head"] or 0) + Fraction(int(match["period"]), 10 ** len(match["period"]) - 1)
    return Number((-1 if match["sign"] == "-" else 1) * value / 10 ** len(match["head"]))


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
    """For every character, how many brackets and environments are open there."""
    depths, depth, start = [], 0, 0
    for match in _BRACKET.finditer(text):
        depths.extend([depth] * (match.start() - start))
        is_opening = match[0] in "([{⟦" or match[0].startswith("\\begin")
        depth += 1 if is_opening else -1
        if depth < 0:
            raise UnreadableError
        depths.extend([max(depth, 1)] * len(match[0]))
        start = match.end()
    if depth:
        raise UnreadableError
    return depths + [0] * (len(text) - start)


def _is_closed(text: str) -> bool:
    """Whether the first bracket is closed by the last, and not earlier."""
    depth = 0
    for match in _BRACKET.finditer(text[:-1]):
        depth += 1 if match[0] in "([{⟦" or match[0].startswith("\\begin") else -1
        if depth == 0:
            return False
    return True
