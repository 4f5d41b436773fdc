r"""Compare two values with math-verify and sympy: in a worker process only, for hostile text takes any time and memory.

Values decide first: constants in 30 digits, expressions at three points. What has no values (sets, inequalities) or
only whole ones (floor, ceiling) is left to `math_verify.verify`; where values and algebra disagree it is unclear.
"""

from __future__ import annotations

import logging
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import Any

from redi_lab.grading.equivalence import Outcome, compare_numbers
from redi_lab.grading.reading import TRIGONOMETRY, Leaf, Number

CPU_SECONDS = 5.0  # of the processor, not of the clock: a verdict must not depend on what else the machine does
_POINTS = ("7/5", "-8/5", "19/7")
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
            return _compare(answer, gold)
    except _OutOfTime:
        return Outcome.TIMEOUT
    except MemoryError:
        return Outcome.MEMORY
    except Exception:  # sympy raises anything on odd input
        return Outcome.FAILED


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
    from sympy import Eq, Expr, MatrixBase, Set
    from sympy.core.relational import Relational

    left, right = _parse(answer.text), _parse(gold.text)
    if left is None or right is None:
        return Outcome.UNREADABLE
    if isinstance(left, Expr) and isinstance(right, Expr):
        return _compare_expressions(left, right, answer.number, gold.number)
    if isinstance(left, MatrixBase) and isinstance(right, MatrixBase):
        if left.shape != right.shape:
            return Outcome.DIFFERENT
        found = {_compare_expressions(a, b) for a, b in zip(left.flat(), right.flat(), strict=True)}
        return next((o for o in (Outcome.DIFFERENT, *Outcome) if o in found and o is not Outcome.SAME), Outcome.SAME)
    if isinstance(left, Eq) and isinstance(right, Eq):
        return _compare_equations(left.lhs - left.rhs, right.lhs - right.rhs)
    if _verify(left, right):
        return Outcome.SAME
    is_alike = any(isinstance(left, kind) and isinstance(right, kind) for kind in (Set, Relational))
    return Outcome.DIFFERENT if is_alike else Outcome.DISAGREEMENT


@lru_cache(maxsize=256)
def _parse(text: str) -> Any:
    """A sympy object, or None where math-verify's reader of LaTeX does not understand the text."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy
    from sympy import I, Symbol

    if TRIGONOMETRY.search(text):
        text = _DEGREES.sub(r"(\\frac{\1 \\pi}{180})", text)
    try:
        # Units are ours to compare, and m is a letter; K and k are two.
        parsed = latex2sympy(
            text.replace("°", ""),
            is_real=True,
            normalization_config=NormalizationConfig(malformed_operators=True, nits=True, boxed="none"),
            conversion_config=ConversionConfig(lowercase_symbols=False),
        )
        imaginary = Symbol("i", real=True)
        return parsed.subs(imaginary, I) if imaginary in parsed.free_symbols else parsed
    except MemoryError:
        raise
    except Exception:
        return None


def _verify(left: Any, right: Any) -> bool:
    from math_verify import verify

    return bool(verify(right, left, allow_set_relation_comp=True, timeout_seconds=None, raise_on_error=True))


def _compare_equations(left: Any, right: Any) -> Outcome:
    """Two equations are the same if the differences of their sides are proportional."""
    ratios = [one / other for one, other in _values(left, right) if other]
    if len(ratios) < 2:
        return Outcome.DISAGREEMENT
    return Outcome.SAME if all(_is_close(ratio, ratios[0]) for ratio in ratios) else Outcome.DIFFERENT


def _values(left: Any, right: Any) -> list[tuple[Any, Any]]:
    """Values of both at the points where both have one."""
    from sympy import Rational

    symbols = sorted(left.free_symbols | right.free_symbols, key=str)
    points = [{s: Rational(start) + i * Rational(3, 11) for i, s in enumerate(symbols)} for start in _POINTS]
    pairs = [(_value(left, point), _value(right, point)) for point in points]
    return [pair for pair in pairs if None not in pair]


def _compare_expressions(left: Any, right: Any, answer: Number | None = None, gold: Number | None = None) -> Outcome:
    from sympy import ceiling, floor

    if not left.free_symbols | right.free_symbols:
        return _compare_constants(left, right, answer, gold)
    agreements = [_is_close(*pair) for pair in _values(left, right)]
    if agreements and not any(agreements):
        return Outcome.DIFFERENT
    if len(agreements) > 1 and all(agreements) and not (left.has(floor, ceiling) or right.has(floor, ceiling)):
        return Outcome.SAME
    return Outcome.SAME if all(agreements) and _verify(left, right) else Outcome.DISAGREEMENT


def _compare_constants(left: Any, right: Any, answer: Number | None, gold: Number | None) -> Outcome:
    one, other = _value(left), _value(right)
    if one is None or other is None:
        return Outcome.SAME if _verify(left, right) else Outcome.DIFFERENT
    if _is_close(one, other):
        return Outcome.SAME
    if one.imag or other.imag:
        return Outcome.DIFFERENT
    return compare_numbers(answer or Number(Fraction(str(one.real))), gold or Number(Fraction(str(other.real))))


def _value(expression: Any, point: dict[Any, Any] | None = None) -> Any:
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
