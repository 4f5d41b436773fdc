r"""The simulated teacher of the embedded tasks: careful, hasty or wrong, each in ways that can be set.

A problem is a start value and steps that add to it (or take from it); the trace has one line of work for each step.
Careful work goes column by column from the right, hasty work jumps to the result, and a slip that is noticed is put
right::

    first add 72 to 76 : 6+2=8 7+7=13 Wait , 7+7=14 so 148 .
    second add 68 to 148 : i can see it in my head at once clearly 216 .
    \boxed { 216 }
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import Literal, NamedTuple, Self, final

ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth")
HASTE = "i can see it in my head at once clearly"
WAIT = "Wait ,"
_START = re.compile(r" so (\d{1,9}) \?$", re.ASCII)
_STEP = re.compile(
    r"\w+ (add|take) (\d{1,9})(?: (?:to|from) (\d{1,9}))? :"
    rf"(?:((?: [\d+-]{{1,9}}=\d{{1,9}}(?: {WAIT})?)+) so| {HASTE}) (\d{{1,9}}) \.",
    re.ASCII,
)

ErrorKind = Literal["haste", "slip", "misconception", "rambling", "truncation"]


@dataclass(frozen=True, slots=True)
class ChainProblem:
    """A start value and numbers to add to it one after the other, or to take from it."""

    start: int
    operands: tuple[int, ...]
    takes: bool = False
    restates: bool = True
    """Whether a line of work names the total that it goes on from."""
    is_undoing: bool = False
    """Whether additions are undone, the last one first: what is taken away is written as what was added."""

    @classmethod
    def of_text(cls, text: str) -> Self:
        """The problem with this prompt, which undoes nothing."""
        numbers, restates = [int(number) for number in re.findall(r"\d+", text)], text[0].isdigit()
        start = numbers.pop(0 if restates else -1)
        return cls(start, tuple(numbers), " take " in text, restates)

    def turned_round(self) -> Self:
        """What was the start, given what the additions came to?"""
        return replace(self, start=self.answer, operands=self.operands[::-1], takes=True, is_undoing=True)

    @property
    def steps(self) -> Sequence[str]:
        """What is done in each, e.g. ``first add 72``."""
        verb = "take" if self.takes and not self.is_undoing else "add"
        names = ORDINALS[: len(self.operands)]
        in_order = names[::-1] if self.is_undoing else names
        return [f"{name} {verb} {value}" for name, value in zip(in_order, self.operands, strict=True)]

    @property
    def text(self) -> str:
        """The prompt, e.g. ``76 , first add 72 ?``, or ``first add 72 , so 76 ?`` where lines name no total."""
        steps = " , ".join(self.steps)
        # The last form stands before the first line as a line's result stands before the next.
        return f"{self.start} , {steps} ?" if self.restates and not self.is_undoing else f"{steps} , so {self.start} ?"

    @classmethod
    def read(cls, text: str) -> Self:
        """The problem of that text."""
        operands = tuple(map(int, re.findall(r" (?:add|take) (\d+)", text)))
        last = _START.search(text)
        start = int(text.split(" ", 1)[0] if last is None else last[1])
        return cls(start, operands, takes=" take " in text, restates=last is None)

    @property
    def answer(self) -> int:
        """The true result."""
        return self.start - sum(self.operands) if self.takes else self.start + sum(self.operands)


class Attempt(NamedTuple):
    """What the teacher wrote, the answer it ends with (None: none), and its first error that stayed (None: none)."""

    text: str
    answer: int | None
    error: ErrorKind | None


@final
@dataclass(frozen=True, slots=True)
class Teacher:
    """How the teacher works, and how often it errs. All rates are probabilities."""

    slip_rate: float = 0.04
    """A column of careful work goes wrong; twice that where a carry comes in."""
    slip_reach: int = 1
    """No probability: how far off a slip in a column is at most."""
    haste_last: float = 0.55
    """The last step is done in the head."""
    haste_before: float = 0.05
    """An earlier step is done in the head."""
    haste_slip_rate: float = 0.35
    """A step done in the head is off by one in one column."""
    correction_rate: float = 0.0
    """A slip in a column is noticed and put right at once."""
    misconception_rate: float = 0.0
    """Of a trace: no carry is taken over in any column."""
    rambling_rate: float = 0.0
    """Of a step: it is done once more, as if it had not been."""
    truncation_rate: float = 0.0
    """Of a trace: it breaks off after one of its lines, without an answer."""
    errs_once: bool = False
    """After an error that stays, the rest of the trace is without."""

    def solve(self, problem: ChainProblem, rng: random.Random) -> Attempt:
        """One attempt; later steps continue from a wrong value."""
        return _Work(self, problem, rng).attempt()


@final
class _Work:
    """One attempt in the making."""

    def __init__(self, habits: Teacher, problem: ChainProblem, rng: random.Random) -> None:
        self._habits, self._problem, self._rng = habits, problem, rng
        self._total = problem.start
        self._error: ErrorKind | None = None
        self._drops_carries = self._happens(habits.misconception_rate)

    def attempt(self) -> Attempt:
        habits, operands, lines = self._habits, self._problem.operands, []
        for index in range(len(operands)):
            lines.append(self._line(index))
            if self._errs("rambling", habits.rambling_rate):
                lines.append(self._line(index))
        if self._errs("truncation", habits.truncation_rate):
            return Attempt("\n".join(lines[: self._rng.randint(1, len(lines))]), None, self._error)
        return Attempt("\n".join([*lines, f"\\boxed {{ {self._total} }}"]), self._total, self._error)

    def _happens(self, rate: float) -> bool:
        return rate > 0 and self._rng.random() < rate  # nothing is drawn for habits that the teacher does not have

    def _errs(self, kind: ErrorKind, rate: float) -> bool:
        """Whether an error is made here; the first one is kept."""
        errs = self._happens(rate) and not (self._habits.errs_once and self._error)
        if errs:
            self._error = self._error or kind
        return errs

    def _line(self, index: int) -> str:
        """One step, which leads from the total to the next."""
        habits, operands = self._habits, self._problem.operands
        is_hasty = self._happens(habits.haste_last if index == len(operands) - 1 else habits.haste_before)
        word = "so" if self._problem.is_undoing else "from" if self._problem.takes else "to"
        total = f" {word} {self._total}" if self._problem.restates else ""
        head = f"{self._problem.steps[index]}{total} :"
        if is_hasty:
            self._total = self._in_the_head(operands[index])
            return f"{head} {HASTE} {self._total} ."
        columns, self._total = self._by_columns(str(operands[index])[::-1])
        return f"{head} {columns} so {self._total} ."

    def _in_the_head(self, operand: int) -> int:
        value = max(0, self._total - operand) if self._problem.takes else self._total + operand
        if not self._errs("haste", self._habits.haste_slip_rate):
            return value
        near: list[int] = [value + sign * 10**column for column in range(len(str(value))) for sign in (-1, 1)]
        return self._rng.choice([wrong for wrong in near if len(str(wrong)) == len(str(value))])

    def _by_columns(self, bottom: str) -> tuple[str, int]:
        """The columns from the right, and their result; `bottom` is the operand from its last digit on."""
        habits, takes, top = self._habits, self._problem.takes, str(self._total)[::-1]
        written, digits, carry = [], "", 0
        for column in range(max(len(top), len(bottom))):
            if carry and self._drops_carries:
                self._error, carry = self._error or "misconception", 0
            a, b = top[column : column + 1], bottom[column : column + 1]
            if not (carry or (a and b)):  # nothing left to do: the leading digits are copied
                digits = (top[column:] or bottom[column:])[::-1] + digits
                break
            value = int(a or 0) + (-int(b or 0) - carry if takes else int(b or 0) + carry)
            borrows = value < 0
            value += 10 * borrows
            work = partial(self._column, f"1{a}" if borrows else a, b, "1" if carry else "")
            if self._happens(habits.slip_rate * (2 if carry else 1)) and not (habits.errs_once and self._error):
                wrong = self._slip(value, carry)
                if self._happens(habits.correction_rate):
                    written.append(f"{work(wrong)} {WAIT}")
                else:
                    self._error, value = self._error or "slip", wrong
            written.append(work(value))
            digits, carry = str(value % 10) + digits, int(borrows) if takes else value // 10
        else:
            digits = ("1" if carry and not takes else "") + digits
        return " ".join(written), int(digits)

    def _column(self, top: str, bottom: str, carry: str, value: int) -> str:
        """A column with its result; of an addition that is undone, as it was when it was done."""
        top, result = (str(value), top) if self._problem.is_undoing else (top, str(value))
        sign = "-" if self._problem.takes and not self._problem.is_undoing else "+"
        return f"{sign.join(filter(None, (top, bottom, carry)))}={result}"

    def _slip(self, value: int, carry: int) -> int:
        """A little off: the incoming carry is dropped, or the table misread."""
        wrong = [value + sign * by for by in range(1, self._habits.slip_reach + 1) for sign in (-1, 1)]
        wrong += [value - 1] if carry else []  # a dropped carry is one less
        return self._rng.choice([near for near in wrong if 0 <= near <= (9 if self._problem.takes else 19)])


def describe_work(traces: Sequence[str], problems: Sequence[str] | None = None) -> dict[str, float]:
    """How traces work, whatever their verdict.

    Args:
        traces: one or more, as a model writes them.
        problems: the texts of their problems; without them, first lines that name no total are not counted.

    Returns:
        `haste`, the share of traces in which any step is done in the head (they hold the phrase `HASTE`); and
        `columns`, the share of steps written out by columns that are right for the operand and the total that their own
        line names (where it names no total, for the result before), whatever went wrong earlier. Without such a step
        there is no `columns`.
    """
    right = []
    for problem, trace in zip(problems or repeat(""), traces, strict=False):
        start = _START.search(problem)
        total = None if start is None else int(start[1])
        for found in map(_STEP.fullmatch, trace.split("\n")):
            if found is None:
                total = None
                continue
            verb, operand, named, columns, result = found.groups()
            total = total if named is None else int(named)
            if columns and total is not None:
                right.append(total + (-int(operand) if verb == "take" else int(operand)) == int(result))
            total = int(result)
    haste = sum(HASTE in trace for trace in traces) / len(traces)
    return {"haste": haste} | ({"columns": sum(right) / len(right)} if right else {})
