r"""Read the closed-form expressions of final answers (LaTeX or plain) and evaluate them at points.

Two expressions are the same, for all that grading needs, when they agree exactly (rationals) or to nine digits at
several points; that takes a hundred microseconds where a computer-algebra system takes seconds. The reader knows
arithmetic, roots, powers, fractions, mixed numbers, elementary functions, factorials and named variables. Whatever
else stands in the text makes `read_expression` return None, and the caller asks the algebra system. Time is linear in
the text, depth and the size of numbers are bounded, so the parent process may do it on hostile text:

    read_expression(r"\frac{1}{2}(x+1)").value({"x": Fraction(3)})  ->  Fraction(2)
"""

from __future__ import annotations

import cmath
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, final

from redi_lab.evaluation.functions import FUNCTIONS, Number, as_complex, power, rounded

_MAX_DEPTH = 40
_MAX_TOKENS = 400
_WORDS = "arcsin|arccos|arctan|sinh|cosh|tanh|sqrt|sin|cos|tan|cot|sec|csc|exp|log|ln|pi"
_TOKEN = re.compile(
    r"(?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4}(?![0-9]))?)"
    r"|(?P<command>\\[A-Za-z]+)"
    rf"|(?P<word>(?<![A-Za-z])(?:np\.|math\.)?(?:{_WORDS})(?![A-Za-z]))"
    r"|(?P<prose>[A-Za-z]{5,})"
    r"|(?P<letter>[A-Za-z])"
    r"|(?P<symbol>\*\*|[-+*/^!_'|(){}\[\]])"
    r"|(?P<space>\s+)"
)
_DOT = re.compile(r"\\(d{1,2})ot\{?\s*(\\[A-Za-z]+|[A-Za-z])\s*\}?")
_LEIBNIZ = re.compile(r"\\frac\{d(?:\^\{?([23])\}?)?\s*(\\[A-Za-z]+|[A-Za-z])\s*\}\{d\s*[A-Za-z](?:\^\{?[23]\}?)?\s*\}")
_PRIME = re.compile(r"\^\s*(?:\{\s*(?:\\prime\s*)+\}|\\prime)")
_GREEK = [
    "alpha",
    "beta",
    "gamma",
    "delta",
    "epsilon",
    "varepsilon",
    "zeta",
    "eta",
    "theta",
    "vartheta",
    "iota",
    "kappa",
    "lambda",
    "mu",
    "nu",
    "xi",
    "rho",
    "sigma",
    "tau",
    "upsilon",
    "phi",
    "varphi",
    "chi",
    "psi",
    "omega",
    "Gamma",
    "Delta",
    "Theta",
    "Lambda",
    "Xi",
    "Sigma",
    "Phi",
    "Psi",
    "Omega",
    "hbar",
    "ell",
    "odot",
]
_SPACING = ("\\quad", "\\qquad", "\\limits", "\\displaystyle", "\\big", "\\Big", "\\bigl", "\\bigr")
_OPERATORS = {"\\cdot": "*", "\\times": "*", "\\div": "/", "\\ast": "*", "**": "^", "\\lbrace": "{", "\\rbrace": "}"}
_STRUCTURE = ("\\frac", "\\sqrt", "\\pi", "\\binom", "\\lceil", "\\rceil", "\\lfloor", "\\rfloor", "\\infty", "\\pm")
_KNOWN = sorted(
    {*_SPACING, *_OPERATORS, *_STRUCTURE, *(f"\\{name}" for name in (*_GREEK, *FUNCTIONS))}, key=len, reverse=True
)
_OPENING = {"(": ")", "[": "]", "{": "}"}
_BARS = {"\\lceil": ("\\rceil", "ceil"), "\\lfloor": ("\\rfloor", "floor"), "|": ("|", "abs")}

Evaluate = Callable[[Mapping[str, Number]], Number]


@final
@dataclass(frozen=True, slots=True)
class Expression:
    """What was read: how to evaluate it, what it names, and whether the notation has more than one reading."""

    value: Evaluate
    variables: frozenset[str]
    is_ambiguous: bool
    has_steps: bool  # floor or ceiling: the variables are meant to be whole


class _UnreadableError(Exception):
    """The text holds something that the reader does not know."""


def read_expression(text: str) -> Expression | None:
    """Read one expression, or return None where any part of the text is not understood."""
    try:
        tokens = _tokenise(_prime_derivatives(text))
        reader = _Reader(tokens)
        value = reader.sum()
        if reader.position != len(tokens):
            return None
    except (_UnreadableError, RecursionError):
        return None
    return Expression(value, frozenset(reader.variables), reader.is_ambiguous, reader.has_steps)


def _prime_derivatives(text: str) -> str:
    r"""Write \dot{x}, \ddot{x}, \frac{dx}{dt}, \frac{d^2 x}{dt^2} and x^{\prime} as x' and x''."""
    text = _DOT.sub(lambda match: match[2] + "'" * len(match[1]), text)
    text = _LEIBNIZ.sub(lambda match: match[2] + "'" * int(match[1] or 1), text)
    return _PRIME.sub(lambda match: "'" * match[0].count("prime"), text)


def _tokenise(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None or match.lastgroup == "prose" or len(tokens) > _MAX_TOKENS:
            raise _UnreadableError
        kind, token = str(match.lastgroup), match[0]
        if kind == "command":
            token = _known_command(token)
        if kind == "word":
            token = "\\" + token.rpartition(".")[2]
        position = match.start() + (len(token) if kind == "command" else len(match[0]))
        if kind != "space" and token not in _SPACING:
            token = _OPERATORS.get(token, token)
            tokens.append((kind, token))
    return tokens


def _known_command(command: str) -> str:
    r"""The longest known command that `command` begins with: graders that strip white space leave `\piG`."""
    for known in _KNOWN:
        if command.startswith(known):
            return known
    raise _UnreadableError


@final
class _Reader:
    """Recursive descent over tokens; every method returns how to evaluate what it read."""

    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self.tokens = tokens
        self.position = 0
        self.variables: set[str] = set()
        self.is_ambiguous = False
        self.has_steps = False
        self._depth = 0
        self._open_bars = 0

    def _peek(self, ahead: int = 0) -> str:
        index = self.position + ahead
        return self.tokens[index][1] if 0 <= index < len(self.tokens) else ""

    def _kind(self, ahead: int = 0) -> str:
        index = self.position + ahead
        return self.tokens[index][0] if 0 <= index < len(self.tokens) else ""

    def _take(self, expected: str | None = None) -> str:
        token = self._peek()
        if not token or (expected is not None and token != expected):
            raise _UnreadableError
        self.position += 1
        return token

    def sum(self) -> Evaluate:
        sign = -1 if self._peek() == "-" else 1
        if self._peek() in ("+", "-"):
            self._take()
        terms = [(sign, self._product())]
        while self._peek() in ("+", "-"):
            sign = 1 if self._take() == "+" else -1
            terms.append((sign, self._product()))
        if len(terms) == 1 and terms[0][0] == 1:
            return terms[0][1]
        return lambda point: _total([sign * term(point) for sign, term in terms])

    def _product(self) -> Evaluate:
        value = self._factor()
        has_divided = False
        while True:
            if self._peek() in ("*", "/"):
                operator = self._take()
                sign = -1 if self._peek() == "-" else 1
                if self._peek() in ("-", "+"):
                    self._take()
                value = _combined(operator, value, self._factor(), sign)
                has_divided = has_divided or operator == "/"
            elif self._starts_operand():
                # 1/2x is read from the left, but authors mean both.
                self.is_ambiguous = self.is_ambiguous or has_divided
                value = _combined("*", value, self._factor(), 1)
            else:
                return value

    def _starts_operand(self) -> bool:
        token, kind = self._peek(), self._kind()
        if token == "|":
            return self._open_bars == 0
        if kind == "number":
            return self._kind(-1) != "number"
        return (
            kind in ("letter", "word")
            or token in _OPENING
            or (kind == "command" and token not in ("\\rceil", "\\rfloor"))
        )

    def _factor(self) -> Evaluate:
        value = self._mixed_number() or self._operand()
        while self._peek() in ("^", "!"):
            value = _called("factorial", value) if self._take() == "!" else _raised(value, self._exponent())
        return value

    def _mixed_number(self) -> Evaluate | None:
        r"""918\frac{1}{2}: a whole number before a proper fraction of whole numbers is added to it, not multiplied."""
        rest = "".join(token for _, token in self.tokens[self.position : self.position + 8])
        match = re.match(r"(\d+)\\frac(?:\{(\d+)\}\{(\d+)\}|(\d)(\d)(?!\d))", rest)
        if match is None:
            return None
        whole, *parts = (int(group) for group in match.groups() if group)
        if parts[0] >= parts[1] or whole == 0 or self._kind(-1) == "number" or self._peek(-1) in ("/", "*", "^"):
            return None
        self.position += 8 if match[2] else 3
        amount = Fraction(whole) + Fraction(*parts)
        return lambda point: amount

    def _exponent(self) -> Evaluate:
        self._depth += 1
        if self._peek() == "{":
            return self._bracketed()
        sign = -1 if self._peek() == "-" else 1
        if self._peek() in ("-", "+"):
            self._take()
        if self._kind() == "number" and len(self._peek()) > 1:
            self.is_ambiguous = True  # x^23 is x²·3 to LaTeX and x²³ to most authors
        value = self._operand()
        if self._peek() == "^":  # 2^3^4 is 2^(3^4)
            self._take()
            value = _raised(value, self._exponent())
        return lambda point: sign * value(point)

    def _bracketed(self) -> Evaluate:
        closing = _OPENING[self._take()]
        bars, self._open_bars = self._open_bars, 0
        value = self.sum()
        self._open_bars = bars
        self._take(closing)
        return value

    def _argument(self) -> Evaluate:
        r"""The argument of \frac or \sqrt: a group, or a single digit, letter or command."""
        if self._peek() == "{":
            return self._bracketed()
        kind, token = self._kind(), self._peek()
        if kind == "number" and len(token) > 1:
            if not token.isdigit():
                raise _UnreadableError
            self.tokens[self.position : self.position + 1] = [("number", digit) for digit in token]
        return self._operand()

    def _operand(self) -> Evaluate:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise _UnreadableError
        value = self._any_operand()
        self._depth -= 1
        return value

    def _any_operand(self) -> Evaluate:
        kind, token = self._kind(), self._peek()
        if token in _OPENING:
            return self._bracketed()
        if token in _BARS:
            return self._bars()
        if kind == "number":
            return self._number()
        if kind == "letter" or token[1:] in _GREEK:
            return self._name()
        if token[1:] in FUNCTIONS and kind in ("command", "word"):
            return self._function()
        return self._special()

    def _special(self) -> Evaluate:
        token = self._take()
        if token == "\\frac":
            top, bottom = self._argument(), self._argument()
            return _combined("/", top, bottom, 1)
        if token == "\\binom":
            upper, lower = self._argument(), self._argument()
            return lambda point: FUNCTIONS["binomial"](upper(point), lower(point))
        if token == "\\pi":
            return lambda point: complex(math.pi)
        if token == "\\infty":
            return lambda point: complex(math.inf)
        raise _UnreadableError

    def _bars(self) -> Evaluate:
        closing, name = _BARS[self._take()]
        self.has_steps = self.has_steps or name != "abs"
        self._open_bars += 1
        value = self.sum()
        self._open_bars -= 1
        self._take(closing)
        return _called(name, value)

    def _number(self) -> Evaluate:
        token = self._take()
        if self._peek() == "_":
            raise _UnreadableError  # a base, told apart by the caller
        amount = Fraction(token.rstrip(".")) if "e" not in token.lower() else Fraction(token.replace(".e", "e"))
        return lambda point: amount

    def _name(self) -> Evaluate:
        name = self._take()
        if self._peek() == "_":
            self._take()
            name += "_" + self._subscript()
        while self._peek() == "'":
            name += self._take()
        if name in ("e", "i"):
            constant = complex(math.e) if name == "e" else 1j
            return lambda point: constant
        if self._peek() == "(" and (name[0] in "fghFGH" or (self._kind(1) == "number" and self._peek(2) == ")")):
            return self._application(name)
        self.variables.add(name)
        return lambda point: point[name]

    def _application(self, name: str) -> Evaluate:
        """f(x), I(0): an unknown function rather than a product; equal arguments give equal values."""
        self.is_ambiguous = True
        argument = self._bracketed()
        self.variables.add(name)

        def value(point: Mapping[str, Number]) -> Number:
            inner = as_complex(argument(point))
            return as_complex(point[name]) * cmath.sin(1 + 0.7 * inner)

        return value

    def _subscript(self) -> str:
        if self._peek() != "{":
            return self._take()
        self._take()
        parts = []
        while self._peek() != "}":
            parts.append(self._take())
        self._take()
        return "".join(parts)

    def _function(self) -> Evaluate:
        name = self._take().lstrip("\\")
        apply = FUNCTIONS[name]
        if name == "sqrt":
            return self._root()
        base, exponent = None, None
        if self._peek() == "_":
            self._take()
            base = self._argument()
        elif name == "log":
            self.is_ambiguous = True  # natural to some, decimal to others
        if self._peek() == "^":
            self._take()
            exponent = self._exponent()
        argument = self._bracketed() if self._peek() in _OPENING else self._bare_argument()
        return _applied(name, apply, argument, base, exponent)

    def _root(self) -> Evaluate:
        degree: Evaluate | None = self._bracketed() if self._peek() == "[" else None
        radicand = self._bracketed() if self._peek() == "(" else self._argument()
        if degree is None:
            return lambda point: FUNCTIONS["sqrt"](radicand(point))
        return lambda point: FUNCTIONS["root"](radicand(point), degree(point))

    def _bare_argument(self) -> Evaluate:
        r"""\sin 2x takes the whole product, up to a sum, a bracket or another function."""
        sign = -1 if self._peek() == "-" else 1
        if sign < 0:
            self._take()
        value = self._factor()
        while self._starts_operand() and self._peek()[1:] not in FUNCTIONS and self._peek() not in _OPENING:
            value = _combined("*", value, self._factor(), 1)
        if self._peek() == "/":
            self.is_ambiguous = True
        return lambda point: sign * value(point)


def _total(values: list[Number]) -> Number:
    result: Any = Fraction(0)
    for value in values:
        result = result + value if isinstance(result, Fraction) and isinstance(value, Fraction) else _add(result, value)
    return rounded(result)


def _add(left: Number, right: Number) -> Number:
    return as_complex(left) + as_complex(right)


def _combined(operator: str, left: Evaluate, right: Evaluate, sign: int) -> Evaluate:
    def value(point: Mapping[str, Number]) -> Number:
        a, b = left(point), right(point)
        if not (isinstance(a, Fraction) and isinstance(b, Fraction)):
            a, b = as_complex(a), as_complex(b)
        result: Any = a * b if operator == "*" else a / b
        return rounded(sign * result)

    return value


def _called(name: str, argument: Evaluate) -> Evaluate:
    return lambda point: FUNCTIONS[name](argument(point))


def _raised(base: Evaluate, exponent: Evaluate) -> Evaluate:
    return lambda point: power(base(point), exponent(point))


def _applied(
    name: str, apply: Callable[..., Number], argument: Evaluate, base: Evaluate | None, exponent: Evaluate | None
) -> Evaluate:
    def value(point: Mapping[str, Number]) -> Number:
        inner = argument(point)
        degree = None if exponent is None else exponent(point)
        if degree == -1 and f"arc{name}" in FUNCTIONS:
            return FUNCTIONS[f"arc{name}"](inner)
        result = apply(inner)
        if base is not None:
            result = as_complex(result) / as_complex(FUNCTIONS["ln"](base(point)))
        return result if degree is None else power(result, degree)

    return value
