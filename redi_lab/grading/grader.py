r"""Grade completions against accepted answers: right, wrong, or unknown (which is never a negative example).

Numbers, tuples, words and the like are compared here (`redi_lab.grading.equivalence`): quickly, exactly and without a
library, so most benchmarks start no worker. The rest goes to math-verify, which can take unlimited time and memory on
hostile text; `Grader` therefore runs it in worker processes under a time and a memory limit, and an answer that breaks
its worker costs that one answer:

    with Grader(num_workers=2) as grader:
        grades = grader.grade_all([("it is \\boxed{1/2}", "0.5"), ("\\boxed{3}", ["3", "3.0"])])
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from pebble import ProcessExpired, ProcessPool

from redi_lab.grading import algebra
from redi_lab.grading.equivalence import Algebra, Outcome, compare_answers
from redi_lab.grading.extraction import Answers, extract_answer, gold_answer

MAX_ANSWER_CHARACTERS = 2000  # no final answer of a benchmark is near this; longer ones are not compared
CONVENTIONS_VERSION = 4  # goes up when docs/grading.md changes a verdict, so that cached results are made anew
WINDOW = 1024  # gradings under way at once
TASKS_PER_WORKER = 2000  # then a fresh process takes over, so that what sympy caches cannot pile up

Gold = str | Sequence[str]
_Task = tuple[str, tuple[str, ...]]  # an answer, and the golds that algebra must compare it with


class Verdict(StrEnum):
    """What grading can say about a completion."""

    RIGHT = "right"
    WRONG = "wrong"
    UNKNOWN = "unknown"


@final
@dataclass(frozen=True, slots=True)
class Grade:
    """A verdict, why it was given, and the final answer that was found (None where none was stated)."""

    verdict: Verdict
    reason: str
    answer: str | None


def _prepare(prediction: str, gold: Gold, answers: Answers) -> Grade | _Task:
    """What is to be compared, or the grade where nothing can be."""
    golds = [gold_answer(text) for text in ([gold] if isinstance(gold, str) else gold)]
    if not golds:
        raise ValueError("no gold answer to grade against: give one or more")
    answer = extract_answer(prediction, answers)
    if answer is None:
        return Grade(Verdict.UNKNOWN, "no final answer", None)
    accepted = tuple(text for text in golds if len(text) <= MAX_ANSWER_CHARACTERS)
    if accepted and len(answer) <= MAX_ANSWER_CHARACTERS:
        return answer, accepted
    side = "gold answer" if len(answer) <= MAX_ANSWER_CHARACTERS else "answer"
    reason = f"{side} longer than {MAX_ANSWER_CHARACTERS} characters"
    return Grade(Verdict.UNKNOWN, reason, answer[:MAX_ANSWER_CHARACTERS])


def _compare(task: _Task, decide: Algebra | None = None) -> Grade | None:
    """Right if any gold is met, wrong only if all differ; None if that depends on algebra and there is none."""
    answer, golds = task
    by = " by math-verify" if decide else ""
    unclear = []
    for gold in golds:
        outcome = compare_answers(answer, gold, decide or (lambda *_: Outcome.ALGEBRA))
        if outcome is Outcome.SAME:
            return Grade(Verdict.RIGHT, f"equivalent{by}" if by else outcome.value, answer)
        if outcome is not Outcome.DIFFERENT:
            unclear.append(outcome)
    if Outcome.ALGEBRA in unclear:
        return None
    if unclear:
        return Grade(Verdict.UNKNOWN, unclear[0].value, answer)
    return Grade(Verdict.WRONG, f"not equivalent{by}" if by else Outcome.DIFFERENT.value, answer)


def _compare_by_algebra(task: _Task) -> Grade | None:
    """In a worker: compare with math-verify for what the conventions leave open."""
    return _compare(task, algebra.equivalent)


def _begin_worker(memory_bytes: int) -> None:
    algebra.load()  # libraries first, then the limit
    limit_memory(memory_bytes)


def limit_memory(memory_bytes: int) -> None:
    """Give this worker process so many bytes beyond what it has: an allocation past that raises MemoryError.

    The limit is counted from here: a script that imports torch has its workers import it too, which would leave them
    no room, and every answer unknown.
    """
    import resource

    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


@final
class Grader:
    """Grades many completions, algebra in worker processes; a context manager that owns its workers.

    Workers start at the first answer that needs them.

    Args:
        num_workers: Worker processes, at least 1.
        timeout_seconds: Time for one answer; after it the worker is killed and the verdict is unknown.
        memory_mb: Address space that one worker may take beyond that of its libraries, in MiB.
        answers: Where completions state their answer, see `extract_answer`.
    """

    def __init__(
        self,
        num_workers: int = 2,
        timeout_seconds: float = 10.0,
        memory_mb: int = 1024,
        answers: Answers = "boxed",
    ) -> None:
        self._answers = answers
        self._num_workers = num_workers
        self._timeout_seconds = timeout_seconds
        self._memory_mb = memory_mb
        self._pool: ProcessPool | None = None

    @property
    def settings(self) -> Mapping[str, str | float]:
        """What decides a verdict, for the protocol of a result."""
        return {
            "name": "math-verify",
            "conventions": CONVENTIONS_VERSION,
            "answers": self._answers,
            "version": version("math-verify"),
            "timeout_seconds": self._timeout_seconds,
            "memory_mb": self._memory_mb,
        }

    @property
    def has_workers(self) -> bool:
        """Whether any worker process was needed so far."""
        return self._pool is not None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None

    def grade_all(self, pairs: Iterable[tuple[str, Gold]]) -> list[Grade]:
        """Grade (prediction, gold) pairs, in their order; see `grade_stream`."""
        return list(self.grade_stream(pairs))

    def grade_stream(self, pairs: Iterable[tuple[str, Gold]]) -> Iterator[Grade]:
        """Grade pairs as they come, in their order, with a bounded number in memory. Equal ones are compared once.

        Yields:
            One grade a pair; time-outs, crashes and exhausted memory are unknown with that reason.

        Raises:
            ValueError: a pair has no gold.
        """
        remaining = iter(pairs)
        while window := [_prepare(*pair, self._answers) for pair in islice(remaining, WINDOW)]:
            made: dict[_Task, Any] = {}  # a grade, or the future of one
            for task in window:
                if not isinstance(task, Grade) and task not in made:
                    made[task] = _compare(task) or self._schedule(task)
            for task in window:
                if isinstance(task, Grade):
                    yield task
                    continue
                if not isinstance(made[task], Grade):
                    made[task] = self._collect(task, made[task])
                yield made[task]

    def _collect(self, task: _Task, future: Any) -> Grade:
        """The grade that a worker made. What became of a worker that was killed is asked once more."""
        for attempt in (future, None):
            try:
                made: Grade = (attempt or self._schedule(task)).result()
            except FutureTimeoutError:
                return Grade(Verdict.UNKNOWN, Outcome.TIMEOUT.value, task[0])
            except MemoryError:
                return Grade(Verdict.UNKNOWN, Outcome.MEMORY.value, task[0])
            except ProcessExpired:  # by the answer, or by a want of memory that was none of its doing
                continue
            return made
        return Grade(Verdict.UNKNOWN, "grader crashed", task[0])

    def _schedule(self, task: _Task) -> Any:
        """The future of a comparison by algebra.

        A fork server starts the workers, not a fork: forking a parent in which torch has started threads can deadlock
        the child. The server loads math-verify once, so that the successor of a killed worker starts in milliseconds.
        """
        if self._pool is None:
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload([__name__, "math_verify"])
            memory_bytes = self._memory_mb * 2**20
            self._pool = ProcessPool(self._num_workers, TASKS_PER_WORKER, _begin_worker, (memory_bytes,), context)
        return self._pool.schedule(_compare_by_algebra, (task,), timeout=self._timeout_seconds)
