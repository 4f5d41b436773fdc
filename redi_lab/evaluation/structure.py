r"""Take a final answer apart: units and signs off, lists, tuples, sets, intervals, inequalities, matrices into parts.

    read_structure(r"x \in [2, 5)")   ->  Group("[", ")", (Scalar("2"), Scalar("5")))
    read_structure(r"x = 1, x = -3")  ->  Group("", "", (Scalar("1", name="x"), Scalar("-3", name="x")))

Only the outside is looked at; what stands inside a part is left to `redi_lab.evaluation.expressions`. The work is
linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import final

_MAX_PARTS = 64
_MAX_DEPTH = 8
_SEPARATOR = re.compile(r"[,;，；]|\\q?quad|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])")
_THOUSANDS = re.compile(r"(?<![0-9A-Za-z.,_])[0-9]{1,3}(?:,[0-9]{3})+(?![0-9,])")
_RELATION = re.compile(
    r"(?P<equal>:?={1,2}|\\approx|\\equiv|\\simeq)|(?P<unequal>!=|\\neq|\\ne(?!g))"
    r"|(?P<at_most>\\leqslant|\\leqq|\\leq|\\le(?!ft)|<=)|(?P<at_least>\\geqslant|\\geqq|\\geq|\\ge|>=)"
    r"|(?P<less>\\lt|<)|(?P<more>\\gt|>)|(?P<member>\\in(?!f|t))"
)
_NAME = re.compile(
    r"(?:[A-Za-z]|\\[A-Za-z]+)'*(?:_(?:\{[^{}]*(?:\{[^{}]*\})?[^{}]*\}|[A-Za-z0-9]|\\[A-Za-z]+))?'*"
    r"(?:\^(?:\{?[a-z*]\}?))?(?:\([^()=<>]{0,40}\))?"
)
_COUNTED_NAME = re.compile(r"(?:[A-Za-z]+[_{}0-9]*\s*[:/*]?\s*){1,3}|\\frac\{[A-Za-z]+\}\{[A-Za-z]+\}|\([A-Za-z, ]+\)")
_MATRIX = re.compile(
    r"\\begin\{([pbBvV]?matrix|array)\}(?:\{[^{}]*\})?(?P<rows>(?:(?!\\begin|\\end).)*)\\end\{\1\}", re.DOTALL
)
_BRACKET = re.compile(r"\\(?:begin|end)\{[a-zA-Z*]+\}|[()\[\]{}]")
_ADJACENT_TUPLES = re.compile(r"(?:\([^()]*,[^()]*\)\s*){2,}")
_OPENING, _CLOSING = "([{", ")]}"
_FLIPPED = {"less": "more", "more": "less", "at_most": "at_least", "at_least": "at_most"}
_PLUS_OR_MINUS = re.compile(r"\\pm|±")


@final
@dataclass(frozen=True, slots=True)
class Scalar:
    """One expression, with the name that it was given (`x` of `x = 5`); `alternatives` are its other forms (≈)."""

    text: str
    name: str = ""
    alternatives: tuple[str, ...] = ()
    has_equation: bool = False  # the name is a whole side of an equation, not a mere label


@final
@dataclass(frozen=True, slots=True)
class Group:
    """Several parts, of a kind that the brackets tell.

    "" is a bare list, "{" a set, "∪" a union, "≠" what a value is not, "(" and "[" a tuple or an interval.
    """

    opening: str
    closing: str
    parts: tuple[Structure, ...]
    name: str = ""

    @property
    def is_ordered(self) -> bool:
        """Whether the order of the parts carries meaning."""
        return self.opening in ("(", "[")


@final
@dataclass(frozen=True, slots=True)
class Matrix:
    """Rows of parts."""

    rows: tuple[tuple[Structure, ...], ...]


Structure = Scalar | Group | Matrix


class UnstructuredError(Exception):
    """The text has no reading that this module knows."""


def read_structure(text: str, depth: int = 0) -> Structure:
    """Read an answer from outside in.

    Raises:
        UnstructuredError: brackets do not match, or the nesting is too deep.
    """
    if depth > _MAX_DEPTH:
        raise UnstructuredError
    text = text.strip()
    pieces = _split(text, _SEPARATOR)
    if len(pieces) > 1:
        return _list(text, pieces, depth)
    text = pieces[0] if pieces else text
    relations = _outside(text, _RELATION)
    if relations:
        return _related(text, relations, depth)
    return _unrelated(text, depth)


def join_thousands(text: str) -> str:
    """Take the commas out of 1,234,567 where no bracket makes them a tuple's."""
    depths = _depths(text)
    return _THOUSANDS.sub(lambda m: m[0] if depths[m.start()] else m[0].replace(",", ""), text)


def _unrelated(text: str, depth: int) -> Structure:
    unions = _split(text, re.compile(r"\\cup|∪"))
    if len(unions) > 1:
        return Group("∪", "", tuple(read_structure(piece, depth + 1) for piece in unions))
    if _ADJACENT_TUPLES.fullmatch(text):
        return read_structure(re.sub(r"\)\s*\(", "),(", text), depth + 1)
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        rows = [row for row in re.split(r"\\\\", matrix["rows"]) if row.strip()]
        return Matrix(tuple(tuple(read_structure(cell, depth + 1) for cell in row.split("&")) for row in rows))
    structure = _bracketed(text, depth)
    if isinstance(structure, Scalar) and _PLUS_OR_MINUS.search(text):
        plus, minus = _PLUS_OR_MINUS.sub("+", text), _PLUS_OR_MINUS.sub("-", text)
        return Group("", "", (Scalar(plus), Scalar(minus)))
    return structure


def _bracketed(text: str, depth: int) -> Structure:
    r"""(a, b), [a, b), \{a, b\}; LaTeX's own braces group without meaning."""
    is_set = text.startswith("\\{") and text.endswith("\\}")
    inside = text[2:-2] if is_set else text[1:-1]
    opening, closing = ("{", "}") if is_set else (text[:1], text[-1:])
    if not (is_set or (opening in tuple("([{") and closing in tuple(")]}"))) or not _is_balanced(inside):
        return Scalar(text)
    pieces = _split(inside, _SEPARATOR)
    if opening == "{" and not is_set:
        return read_structure(inside, depth + 1)
    if is_set and re.search(r"\\mid|\||:", inside):
        raise UnstructuredError
    if _MATRIX.fullmatch(inside.strip()):
        return read_structure(inside, depth + 1)
    if len(pieces) == 1 and not is_set:
        return read_structure(inside, depth + 1) if opening == "(" and closing == ")" else Scalar(text)
    parts = [read_structure(piece, depth + 1) for piece in pieces]
    return Group(opening, closing, _flat(parts) if is_set else tuple(parts))


def _list(text: str, pieces: list[str], depth: int) -> Structure:
    semicolons = _split(text, re.compile(r"[;；]"))
    if len(semicolons) > 1 and len(semicolons) < len(pieces):
        return Group("", "", _flat([read_structure(piece, depth + 1) for piece in semicolons]))
    parts = [read_structure(piece, depth + 1) for piece in pieces]
    names = [part.name for part in parts if isinstance(part, Scalar | Group)]
    if len(set(names)) == len(parts) and all(names) and len(names) == len(parts):
        # p = 5, q = 2 is the point (5, 2); names are kept so that their order is free.
        return Group("(", ")", tuple(parts))
    first = parts[0]
    if isinstance(first, Scalar | Group) and first.name:  # n = 1, 2, 3: the name belongs to all
        parts = [replace(p, name=first.name) if isinstance(p, Scalar | Group) and not p.name else p for p in parts]
    return Group("", "", _flat(parts))


def _flat(parts: list[Structure]) -> tuple[Structure, ...]:
    """A bare list inside a bare list (from ±) is one list."""
    found: list[Structure] = []
    for part in parts:
        found.extend(part.parts if isinstance(part, Group) and not part.opening else [part])
    return tuple(found)


def _related(text: str, relations: list[re.Match[str]], depth: int) -> Structure:
    bounds = [0, *(edge for match in relations for edge in match.span()), len(text)]
    sides = [text[start:end].strip() for start, end in zip(bounds[::2], bounds[1::2], strict=True)]
    kinds = [str(match.lastgroup) for match in relations]
    if not all(sides):
        stated = [side for side in sides if side]
        if len(stated) == 1 and set(kinds) == {"equal"}:
            return read_structure(stated[0], depth + 1)
        raise UnstructuredError
    if set(kinds) == {"equal"}:
        return _equation(sides, [match[0] for match in relations], depth)
    if kinds == ["member"]:
        return _named(read_structure(sides[1], depth + 1), sides[0])
    if kinds == ["unequal"]:
        return Group("≠", "", (read_structure(sides[1], depth + 1),), name=sides[0])
    return _inequality(sides, kinds, depth)


def _equation(sides: list[str], signs: list[str], depth: int) -> Structure:
    is_label = _NAME.fullmatch(sides[0]) or _COUNTED_NAME.fullmatch(sides[0])
    if is_label or len(sides) > 2:
        name, values = (sides[0], sides[1:]) if is_label else ("", sides)
        if any("approx" in sign for sign in signs) and len(values) > 1:
            return Scalar(values[0], name, tuple(values[1:]))
        return _named(read_structure(values[-1], depth + 1), name)
    if "approx" in signs[0]:
        return Scalar(sides[0], "", (sides[1],))
    return Scalar(sides[1], sides[0], has_equation=True)


def _named(structure: Structure, name: str) -> Structure:
    if isinstance(structure, Scalar | Group):
        return replace(structure, name=re.sub(r"\s+", "", name))
    return structure


def _inequality(sides: list[str], kinds: list[str], depth: int) -> Structure:
    """A chain about one name is an interval: 1 < x <= 3 is (1, 3]."""
    if len(sides) == 2 and not _NAME.fullmatch(sides[0]) and _NAME.fullmatch(sides[1]):
        sides, kinds = sides[::-1], [_FLIPPED[kinds[0]]]
    if len(sides) == 2 and _NAME.fullmatch(sides[0]):
        edge = read_structure(sides[1], depth + 1)
        bracket = {"at_least": "[", "at_most": "]"}.get(kinds[0])
        if kinds[0] in ("more", "at_least"):
            return Group(bracket or "(", ")", (edge, Scalar("\\infty")), name=sides[0])
        return Group("(", bracket or ")", (Scalar("-\\infty"), edge), name=sides[0])
    if len(sides) == 3 and _NAME.fullmatch(sides[1]):
        if set(kinds) <= {"more", "at_least"}:
            sides, kinds = sides[::-1], [_FLIPPED[kind] for kind in kinds[::-1]]
        if set(kinds) <= {"less", "at_most"}:
            opening, closing = "[" if kinds[0] == "at_most" else "(", "]" if kinds[1] == "at_most" else ")"
            edges = (read_structure(sides[0], depth + 1), read_structure(sides[2], depth + 1))
            return Group(opening, closing, edges, name=sides[1])
    raise UnstructuredError


def _outside(text: str, pattern: re.Pattern[str]) -> list[re.Match[str]]:
    """Matches of `pattern` that stand outside all brackets and environments."""
    depths = _depths(text)
    return [match for match in pattern.finditer(text) if depths[match.start()] == 0]


def _split(text: str, pattern: re.Pattern[str]) -> list[str]:
    """The non-empty pieces between matches of `pattern` outside all brackets.

    Raises:
        UnstructuredError: there are more pieces than any answer has.
    """
    pieces, start = [], 0
    for match in _outside(text, pattern):
        pieces.append(text[start : match.start()])
        start = match.end()
    pieces.append(text[start:])
    found = [piece.strip() for piece in pieces if piece.strip()]
    if len(found) > _MAX_PARTS:
        raise UnstructuredError
    return found


def _depths(text: str) -> list[int]:
    """For every character, how many brackets and environments are open there."""
    depths, depth, start = [], 0, 0
    for match in _BRACKET.finditer(text):
        depths.extend([depth] * (match.start() - start))
        is_opening = match[0] in _OPENING or match[0].startswith("\\begin")
        depth = depth + 1 if is_opening else max(0, depth - 1)
        depths.extend([max(depth, 1) if is_opening else depth] * len(match[0]))
        start = match.end()
    return depths + [depth] * (len(text) - start)


def _is_balanced(inside: str) -> bool:
    """Whether the outer brackets of what `inside` was cut from belong together."""
    depth = 0
    for character in inside:
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth < 0:
            return False
    return depth == 0
