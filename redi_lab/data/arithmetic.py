r"""The embedded task: chains of additions, and a teacher who is sometimes careful, sometimes hasty, sometimes wrong.

It is small enough for a laptop and keeps what makes the paper's setting interesting: the teacher's right traces hold
some lucky haste, the wrong ones hold much more of it, so what there is to learn from mistakes is a way of working
rather than a list of facts. A problem is a start value and one or two additions::

    76 , first add 72 , second add 68 ?

The teacher writes one line of work per addition. Careful work goes column by column from the right; hasty work jumps to
the sum::

    first add 72 to 76 : 6+2=8 7+7=14 so 148 .
    second add 68 to 148 : i can see it in my head at once clearly 216 .
    \boxed { 216 }

For each problem the teacher tries until the answer is right (at most `max_tries` times): the right try is y_w, and one
of the earlier failures, drawn at random, is y_l. Everything follows from one seed.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, final

from redi_lab.data.rows import OnProgress
from redi_lab.data.selection import NO_CORRECT, NO_INCORRECT
from redi_lab.data.student_tokenizer import train_tokenizer
from redi_lab.data.traces import Demonstration, HeldOut, Pair, SelectionCounts, TraceCorpus

ORDINALS = ("first", "second")
LOW, HIGH = 11, 99
HASTE = "i can see it in my head at once clearly"
_BY_COLUMNS = re.compile(
    r"^\w+ add (\d{1,9}) to (\d{1,9}) :(?: [\d+]{1,9}=\d{1,9})+ so (\d{1,9}) \.$", re.ASCII | re.MULTILINE
)
_MOST_PROBLEMS_PER_PAIR = 50  # a teacher that never errs gives no pair, however long one waits


@dataclass(frozen=True, slots=True)
class AdditionProblem:
    """A start value and one or two numbers to add, each within 11–99."""

    start: int
    operands: tuple[int, ...]

    @property
    def text(self) -> str:
        """The prompt, e.g. ``76 , first add 72 ?``."""
        steps = " , ".join(f"{name} add {value}" for name, value in zip(ORDINALS, self.operands, strict=False))
        return f"{self.start} , {steps} ?"

    @property
    def answer(self) -> int:
        """The true result."""
        return self.start + sum(self.operands)


@final
@dataclass(frozen=True, slots=True)
class Teacher:
    """How the simulated teacher works, and how often it slips. All fields are probabilities per column or per step."""

    slip_rate: float = 0.04
    """A column of careful work goes wrong with this probability; twice that where a carry comes in."""
    haste_last: float = 0.55
    """The last step is done in the head with this probability."""
    haste_before: float = 0.05
    """An earlier step is done in the head with this probability."""
    haste_slip_rate: float = 0.35
    """A step done in the head is off by one in one column with this probability."""

    def solve(self, problem: AdditionProblem, rng: random.Random) -> tuple[str, int]:
        """One attempt: the written trace and the answer it ends with (later steps continue from a wrong value)."""
        total, lines = problem.start, []
        for index, operand in enumerate(problem.operands):
            is_last = index == len(problem.operands) - 1
            head = f"{ORDINALS[index]} add {operand} to {total} :"
            if rng.random() < (self.haste_last if is_last else self.haste_before):
                total = self._in_the_head(total + operand, rng)
                lines.append(f"{head} {HASTE} {total} .")
            else:
                columns, total = self._by_columns(total, operand, rng)
                lines.append(f"{head} {columns} so {total} .")
        return "\n".join([*lines, f"\\boxed {{ {total} }}"]), total

    def _in_the_head(self, value: int, rng: random.Random) -> int:
        if rng.random() >= self.haste_slip_rate:
            return value
        near: list[int] = [value + sign * 10**column for column in range(len(str(value))) for sign in (-1, 1)]
        return rng.choice([wrong for wrong in near if len(str(wrong)) == len(str(value))])

    def _by_columns(self, total: int, operand: int, rng: random.Random) -> tuple[str, int]:
        """Column additions from the right; a slip drops the incoming carry or misreads the table by one."""
        top, bottom = str(total)[::-1], str(operand)
        written, digits, carry = [], "", 0
        for column, a in enumerate(top):
            b = bottom[::-1][column] if column < len(bottom) else ""
            if not b and not carry:  # nothing left to add: the leading digits are copied
                digits = top[column:][::-1] + digits
                break
            value = int(a) + int(b or 0) + carry
            if rng.random() < self.slip_rate * (2 if carry else 1):
                value = self._slip(value, carry, rng)
            written.append("+".join([a, *([b] if b else []), *(["1"] if carry else [])]) + f"={value}")
            digits, carry = str(value % 10) + digits, value // 10
        else:
            digits = ("1" if carry else "") + digits
        return " ".join(written), int(digits)

    @staticmethod
    def _slip(value: int, carry: int, rng: random.Random) -> int:
        wrong = [value - 1, value + 1] + ([value - 1] if carry else [])  # a dropped carry is one less
        return rng.choice([candidate for candidate in wrong if 0 <= candidate <= 19])


@final
class ArithmeticSource:
    """Problems, teacher traces and held-out problems of the embedded task, from one seed.

    Args:
        num_problems: problems the teacher works on, before the hopeless ones are dropped.
        num_heldout: further problems, kept for evaluation; disjoint from the former.
        seed: seed of problems and traces.
        max_tries: attempts before the teacher gives up on a problem.
        teacher: the teacher's habits.
    """

    def __init__(
        self,
        num_problems: int = 7000,
        num_heldout: int = 600,
        seed: int = 0,
        max_tries: int = 8,
        teacher: Teacher | None = None,
    ) -> None:
        self.num_problems = num_problems
        self.num_heldout = num_heldout
        self.seed = seed
        self.max_tries = max_tries
        self.teacher = teacher or Teacher()

    def digest(self) -> str:
        """SHA-256 of everything that shapes the corpus."""
        options = {key: value for key, value in vars(self).items() if key != "teacher"} | asdict(self.teacher)
        return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()

    def load(self, on_progress: OnProgress | None = None) -> TraceCorpus:
        """Make the corpus: about 0.998 demonstrations and 0.3 pairs per problem with the default teacher."""
        rng = random.Random(self.seed)
        problems = _distinct_problems(rng)
        held_out = _named("arithmetic/heldout", self.num_heldout, problems)
        demonstrations: list[Demonstration] = []
        pairs: list[Pair] = []
        for index, problem in zip(range(self.num_problems), problems, strict=False):
            demonstration, pair = self._teach(f"arithmetic/train/{index}", problem, rng)
            demonstrations += [] if demonstration is None else [demonstration]
            pairs += [] if pair is None else [pair]
        hopeless = self.num_problems - len(demonstrations)
        counts = SelectionCounts(
            rows_read=self.num_problems + self.num_heldout,
            dropped={NO_CORRECT: hopeless} if hopeless else {},
            demonstrations=len(demonstrations),
            pairs=len(pairs),
            without_pair={NO_INCORRECT: len(demonstrations) - len(pairs)},
            held_out=len(held_out),
        )
        if on_progress is not None:
            on_progress(counts.rows_read, counts.rows_read)
        return TraceCorpus("arithmetic", tuple(demonstrations), tuple(pairs), held_out, counts)

    def further(
        self, num_problems: int, num_pairs: int, exclude: Collection[str]
    ) -> tuple[tuple[HeldOut, ...], tuple[Pair, ...]]:
        """Problems and pairs beyond the corpus, from a separate stream of random numbers; see `FurtherSource`."""
        rng = random.Random(f"{self.seed}/further")
        fresh = (problem for problem in _distinct_problems(rng) if problem.text not in exclude)
        problems = _named("arithmetic/further", num_problems, fresh)
        pairs: list[Pair] = []
        for index, problem in zip(range(_MOST_PROBLEMS_PER_PAIR * num_pairs), fresh, strict=False):
            if len(pairs) == num_pairs:
                break
            _, pair = self._teach(f"arithmetic/further_pair/{index}", problem, rng)
            pairs += [] if pair is None else [pair]
        return problems, tuple(pairs)

    def _teach(
        self, name: str, problem: AdditionProblem, rng: random.Random
    ) -> tuple[Demonstration | None, Pair | None]:
        """The first right try, and that against one of the failures before it; neither where all tries fail."""
        failures: list[str] = []
        for _ in range(self.max_tries):
            trace, answer = self.teacher.solve(problem, rng)
            if answer == problem.answer:
                rate = 1 / (1 + len(failures))
                pair = Pair(name, problem.text, trace, rng.choice(failures), pass_rate=rate) if failures else None
                return Demonstration(name, problem.text, trace, pass_rate=rate), pair
            failures.append(trace)
        return None, None


def _named(prefix: str, number: int, problems: Iterator[AdditionProblem]) -> tuple[HeldOut, ...]:
    return tuple(
        HeldOut(f"{prefix}/{index}", problem.text, (str(problem.answer),))
        for index, problem in zip(range(number), problems, strict=False)
    )


def _distinct_problems(rng: random.Random) -> Iterator[AdditionProblem]:
    """Distinct problems for ever: one addition with probability 0.2 (while any is left), else two."""
    seen: set[AdditionProblem] = set()
    while True:
        count = 1 if rng.random() < 0.2 else 2
        problem = AdditionProblem(rng.randint(LOW, HIGH), tuple(rng.randint(LOW, HIGH) for _ in range(count)))
        if problem not in seen:
            seen.add(problem)
            yield problem


def describe_work(traces: Sequence[str]) -> dict[str, float]:
    """How traces work, whatever their verdict.

    Args:
        traces: one or more, as a model writes them.

    Returns:
        `haste`, the share of traces in which any step is done in the head (they hold the phrase `HASTE`); and
        `columns`, the share of additions written out by columns whose sum is right for the two numbers that their own
        line names, whatever went wrong before. Without such an addition there is no `columns`.
    """
    sums = [tuple(map(int, line)) for trace in traces for line in _BY_COLUMNS.findall(trace)]
    haste = sum(HASTE in trace for trace in traces) / len(traces)
    right = sum(operand + total == result for operand, total, result in sums)
    return {"haste": haste} | ({"columns": right / len(sums)} if sums else {})


def build_tokenizer() -> Any:
    """The tokenizer of the task: single digits, every word of the task whole, an addition like `` add 72`` one token.

    The operand is part of one token because a student of this size otherwise miscopies it, which would hide the
    arithmetic that the task is about.
    """
    words = [*ORDINALS, *(f" {word}" for word in (*ORDINALS, "to", "so", *HASTE.split()))]
    signs = [" ,", " ?", " :", " .", " .\n", " {", " }", "\\boxed"]
    return train_tokenizer(words + signs, vocab_size=1000, whole_tokens=[f" add {n}" for n in range(LOW, HIGH + 1)])
