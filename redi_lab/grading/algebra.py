r"""Compare two values with math-verify and sympy: in a worker process only, for hostile text takes any time and memory.

Both must agree that two values are the same: `math_verify.verify`, which compares small decimals loosely, and the
values in 30 digits (of expressions at three points). Where they disagree it is unclear.
"""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import cache, lru_cache
from typing import Any

from redi_lab.grading.equivalence import Outcome, compare_numbers, is_precise
from redi_lab.grading.reading import TRIGONOMETRY, Leaf, Number
from redi_lab.grading.values import differ

CPU_SECONDS = 5.0  # of the processor, not of the clock: a verdict must not depend on what else the machine does
_POINTS = ("7/5", "-8/5", "19/7")
_LIST_OR_SET = re.compile(r"[,;]|\\[{}]|\\(?:in|notin|cup|cap|subseteq|subset|setminus|emptyset|mathbb)(?![a-z])")
_DEGREES = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s?°")


class _OutOfTime(BaseException):
    """Not an Exception: sympy swallows those."""


def load() -> None:
    """Import math-verify, which takes seconds, and keep it from writing to the screen."""
    import math_verify  # noqa: F401

    for name in ("math_verify", "latex2sympy2_extended"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def equivalent(answer: Leaf, gold: Leaf) -> Outcome:
    """Whether two values are the same. Needs the main thread, for its timer."""
    try:
        with _limited_time():
            return Outcome.DIFFERENT if _differ(answer, gold) else _compare(answer, gold)
    except _OutOfTime:
        return Outcome.TIMEOUT
    except MemoryError:
        return Outcome.MEMORY
    except Exception:  # sympy raises anything on odd input
        return Outcome.FAILED


def _differ(answer: Leaf, gold: Leaf) -> bool:
    """Whether rough values tell the two apart, which spares the reader of LaTeX; not where one may be rounded."""
    if any(leaf.number is not None and is_precise(leaf.number) for leaf in (answer, gold)):
        return False
    return differ(*(str(leaf.number.value) if leaf.number else leaf.text for leaf in (answer, gold)))


@contextmanager
def _limited_time() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise _OutOfTime

    earlier = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS, 0.1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, earlier)


def _compare(answer: Leaf, gold: Leaf) -> Outcome:
    from math_verify import verify
    from sympy import Eq, Set
    from sympy.core.relational import Relational

    left, right = _parse(answer.text), _parse(gold.text)
    if left is None or right is None:
        return Outcome.UNREADABLE
    if left == right:  # as expressions: nothing is left to prove
        return Outcome.SAME
    are_equations = isinstance(left, Eq) and isinstance(right, Eq)
    differences = [side.lhs - side.rhs for side in (left, right)] if are_equations else []
    are_polynomials = are_equations and all(difference.is_polynomial() for difference in differences)
    if are_equations and not are_polynomials and not _are_proportional(*differences):
        return Outcome.DISAGREEMENT  # verify would try to solve both
    pairs = _values(left, right)
    agreements = [all(_is_close(a, b) for a, b in zip(*pair, strict=True)) for pair in pairs]
    if agreements and not any(agreements):
        return Outcome.DIFFERENT if left.free_symbols | right.free_symbols else _round(*pairs[0], answer, gold)
    if all(agreements) and verify(right, left, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True):
        return Outcome.SAME
    # Of equations, verify proves what it denies only where they are polynomials.
    is_decided = any(isinstance(left, kind) and isinstance(right, kind) for kind in (Set, Relational))
    return Outcome.DIFFERENT if is_decided and are_polynomials == are_equations else Outcome.DISAGREEMENT


@cache
def _reader() -> Any:
    """math-verify's reader of LaTeX, which takes what holds no list or set for a formula.

    Its grammar tries lists and sets first, and reads every formula several times to find that it is none.
    """
    from antlr4 import Token
    from latex2sympy2_extended.latex2sympy2 import _Latex2Sympy

    class Reader(_Latex2Sympy):
        def parse(self, text: str) -> Any:
            if _LIST_OR_SET.search(text):
                return super().parse(text)
            parser = self.create_parser(text)
            formula = parser.relation(0)
            return self.convert_relation(formula) if parser.getTokenStream().LA(1) == Token.EOF else super().parse(text)

    return Reader


@lru_cache(maxsize=256)
def _parse(text: str) -> Any:
    """A sympy object, or None where math-verify's reader of LaTeX does not understand the text."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig
    from latex2sympy2_extended.math_normalization import NormalizationConfig, normalize_latex
    from sympy import I, Symbol

    if TRIGONOMETRY.search(text):
        text = _DEGREES.sub(r"(\\frac{\1 \\pi}{180})", text)
    try:
        # Units are ours to compare, and m is a letter; K and k are two.
        spelling = NormalizationConfig(malformed_operators=True, nits=True, boxed="none")
        reader = _reader()(is_real=True, config=ConversionConfig(lowercase_symbols=False))
        parsed = reader.parse(normalize_latex(text.replace("°", ""), spelling))
        imaginary = Symbol("i", real=True)
        return parsed.subs(imaginary, I) if imaginary in parsed.free_symbols else parsed
    except MemoryError:
        raise
    except Exception:
        return None


def _values(left: Any, right: Any) -> list[tuple[list[Any], list[Any]]]:
    """Values of two expressions, or of the entries of two matrices, at the points where all have one."""
    from sympy import Expr, MatrixBase, Rational

    if isinstance(left, MatrixBase) and isinstance(right, MatrixBase):
        if left.shape != right.shape:
            return [([0], [1])]
        sides = left.flat(), right.flat()
    elif isinstance(left, Expr) and isinstance(right, Expr):
        sides = [left], [right]
    else:
        return []
    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    points = [
        {s: Rational(start) + i * Rational(3, 11) for i, s in enumerate(symbols)}
        for start in _POINTS[: 1 + 2 * bool(symbols)]
    ]
    found = [tuple([_value(entry, point) for entry in side] for side in sides) for point in points]
    return [(one, other) for one, other in found if None not in one + other]


def _are_proportional(left: Any, right: Any) -> bool:
    """Whether one is the other times a constant, at every point where both have a value."""
    values = [(one, other) for (one,), (other,) in _values(left, right)]
    return bool(values) and all(_is_close(one * values[0][1], other * values[0][0]) for one, other in values)


def _value(expression: Any, point: dict[Any, Any]) -> Any:
    """The finite value at a point as an mpmath number, in 30 digits; None where there is none."""
    import mpmath

    parts = expression.evalf(30, subs=point).as_real_imag()
    if not all(part.is_Number and part.is_finite for part in parts):
        return None
    with mpmath.workdps(30):
        return mpmath.mpc(*map(str, parts))


def _is_close(left: Any, right: Any) -> bool:
    """Equal to 12 digits. Nothing is close to zero but zero."""
    import mpmath

    with mpmath.workdps(30):
        size = max(abs(left), abs(right))
        return bool(abs(left - right) <= size * mpmath.mpf("1e-12") or size < mpmath.mpf("1e-90"))


def _round(left: list[Any], right: list[Any], answer: Leaf, gold: Leaf) -> Outcome:
    """One constant may be a rounding of the other."""
    if len(left) > 1 or left[0].imag or right[0].imag:
        return Outcome.DIFFERENT
    numbers = [leaf.number or Number(Fraction(str(value.real))) for leaf, (value,) in ((answer, left), (gold, right))]
    return compare_numbers(*numbers)
