r"""Tell formulas apart by floating-point values: microseconds, in linear time, without a library.

    differ(r"4\sqrt{5}", "9")          ->  True
    differ(r"\cos(2t)", r"\sin(2t)")   ->  True
    differ(r"\sqrt{x^2}", "x")         ->  False: they agree at one of the points

Only what certainly differs is reported. That two values agree proves nothing, and notation with two readings (1/2x,
f(x), a mixed number) is not read at all.
"""

from __future__ import annotations

import ast
import cmath
import operator
import re
import zlib
from collections.abc import Callable

_FUNCTIONS = r"exp|ln|arc(?:sin|cos|tan)|(?:sin|cos|tan)h?"
_GREEK = "alpha|beta|gamma|delta|epsilon|zeta|eta|theta|lambda|mu|nu|rho|sigma|tau|phi|omega|pi|Delta|Phi|Omega|hbar"
_TOKEN = re.compile(
    rf"\s*(?:(?P<number>[0-9]+(?:\.[0-9]+)?|\.[0-9]+)|\\(?P<call>sqrt|frac|(?:{_FUNCTIONS})(?=\s*[({{\[]))"
    rf"|(?P<symbol>(?:\\(?:{_GREEK})(?![A-Za-z])|[A-Za-z])(?:_(?:[A-Za-z0-9]|\{{[A-Za-z0-9]+\}}))?)"
    r"|(?P<times>\\cdot(?![a-z])|\\times(?![a-z])|\*)|(?P<operator>[-+/^])|(?P<open>[({\[])|(?P<close>[)}\]]))\s*"
)
_SHORT_ARGUMENTS = re.compile(r"\\(frac|sqrt)\s*([0-9a-z])(?:\s*([0-9a-z]))?")
_LAST_ARGUMENT = re.compile(rf"\\({_FUNCTIONS})\s*([0-9]*\s?(?:[a-z]|\\(?:{_GREEK}))?)(?=\s*(?:$|[-+)}}]))")  # \sin 2t
_SEVERAL_READINGS = re.compile(r"\^\s*(?:[0-9]{2}|[A-Za-z]\w|-)|[0-9]\s*\\frac|(?<![A-Za-z\\])[fghuFGH]\s*\(")
_ONE_WORD = re.compile(r"\\?[A-Za-z0-9]+\s*\)")  # I(0), x(t): a function rather than a product
_OPERATORS: dict[type, Callable[..., complex]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.Pow: operator.pow, ast.UAdd: operator.pos, ast.USub: operator.neg,
}  # fmt: skip
_PYTHON = {"{": "(", "}": ")", "[": "(", "]": ")", "^": "**", "\\cdot": "*", "\\times": "*"}
_CMATH = {"ln": "log", "arcsin": "asin", "arccos": "acos", "arctan": "atan"}
_CONSTANTS = {"vpi": cmath.pi, "ve": cmath.e, "vi": 1j}
_POINTS = ((1.37, 0.31), (-0.83, 0.57))


def differ(left: str, right: str) -> bool:
    """Whether the two have values, and quite other ones at every point. Never raises."""
    try:
        one, other = _tree(left), _tree(right)
        pairs = [(_value(one, *point), _value(other, *point)) for point in _POINTS]
    except (ValueError, TypeError, ArithmeticError, SyntaxError, RecursionError, MemoryError):
        return False
    return all(abs(a - b) > 1e-6 * max(abs(a), abs(b)) and abs(a) + abs(b) < 1e100 for a, b in pairs)


def _tree(text: str) -> ast.expr:
    r"""The formula as a Python expression, in which \frac{a}{b} is the call frac(a)(b) and names start with v.

    Raises:
        ValueError: it holds something else than arithmetic and functions, or has several readings.
    """
    text = _SHORT_ARGUMENTS.sub(
        lambda m: rf"\{m[1]}{{{m[2]}}}" + (f"{{{m[3]}}}" if m[3] and m[1] == "frac" else m[3] or ""), text
    )
    text = _LAST_ARGUMENT.sub(r"\\\1{\2}", text)
    if _SEVERAL_READINGS.search(text):
        raise ValueError(text)
    parts, position, before, divided = [], 0, "", [False]  # the last: whether a quotient is open, for each bracket
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(text)
        kind, token, position = str(match.lastgroup), str(match[str(match.lastgroup)]), match.end()
        is_argument = token in "{[" and before in ("call", "close")
        if before in ("number", "symbol", "close") and kind in ("number", "call", "symbol", "open") and not is_argument:
            if divided[-1] or (before == "symbol" and token == "(" and _ONE_WORD.match(text, position)):
                raise ValueError(text)
            parts.append("*")
        if kind == "open":
            divided.append(False)
        elif kind == "close":
            divided.pop()
        elif kind in ("times", "operator") and token != "^":
            divided[-1] = token == "/"
        parts.append("v" + re.sub(r"\W", "", token) if kind == "symbol" else _PYTHON.get(token, token))
        before = kind
    return ast.parse("".join(parts), mode="eval").body


def _value(node: ast.expr, start: float, step: float) -> complex:
    match node:
        case ast.Constant(int() | float() as number):
            return float(number)
        case ast.Name(name):
            return _CONSTANTS.get(name) or start + step * (zlib.crc32(name.encode()) % 1009) / 400
        case ast.UnaryOp(sign, operand):
            return _OPERATORS[type(sign)](_value(operand, start, step))
        case ast.BinOp(left, sign, right):
            return _OPERATORS[type(sign)](_value(left, start, step), _value(right, start, step))
        case ast.Call(ast.Call(ast.Name("frac"), [top]), [bottom]):
            return _value(top, start, step) / _value(bottom, start, step)
        case ast.Call(ast.Call(ast.Name("sqrt"), [degree]), [inside]):
            return _value(inside, start, step) ** (1 / _value(degree, start, step))
        case ast.Call(ast.Name(name), [inside]) if name != "frac":
            function: Callable[[complex], complex] = getattr(cmath, _CMATH.get(name, name))
            return function(_value(inside, start, step))
    raise ValueError(node)
