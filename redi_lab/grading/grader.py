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
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from pebble import ProcessExpired, ProcessPool

from redi_lab.grading import algebra
from redi_lab.grading.equivalence import Outcome, compare_answers
from redi_lab.grading.extraction import ANSWERS, Answers, extract_answer, gold_answer

MAX_ANSWER_CHARACTERS = 2000  # no final answer of a benchmark is near this; longer ones are not compared
CONVENTIONS_VERSION = 2  # goes up when docs/grading.md changes a verdict, so that cached results are made anew
WINDOW = 1024  # gradings under way at once, and comparisons remembered
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


def grade(prediction: str, gold: Gold, answers: Answers = "boxed") -> Grade:
    """Grade one completion in this process. Use `Grader` for text that a model wrote.

    Length limits apply, but time is limited only by math-verify's own alarms and memory not at all.

    Args:
        prediction: The completion, of any length.
        gold: The accepted answer, or several of which one must be met.
        answers: Where the answer stands, see `extract_answer`.

    Raises:
        RuntimeError: Outside the main thread, where the alarms cannot work.
        ValueError: `gold` is empty.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("grade() limits time by signals and needs the main thread; use Grader elsewhere")
    decided = _grade_directly(prediction, gold, answers)
    return decided if isinstance(decided, Grade) else _grade_by_algebra(*decided)


def _grade_directly(prediction: str, gold: Gold, answers: Answers) -> Grade | _Task:
    """The grade, when no algebra is needed, else the answer and the golds that algebra must compare."""
    golds = (gold,) if isinstance(gold, str) else tuple(gold)
    if not golds:
        raise ValueError("no gold answer to grade against: give one or more")
    answer = extract_answer(prediction, answers)
    if answer is None:
        return Grade(Verdict.UNKNOWN, "no final answer", None)
    if len(answer) > MAX_ANSWER_CHARACTERS:
        reason = f"answer longer than {MAX_ANSWER_CHARACTERS} characters"
        return Grade(Verdict.UNKNOWN, reason, answer[:MAX_ANSWER_CHARACTERS])
    accepted = [gold_answer(text) for text in golds]
    if max(map(len, accepted)) > MAX_ANSWER_CHARACTERS:
        accepted = [text for text in accepted if len(text) <= MAX_ANSWER_CHARACTERS]
        if not accepted:
            return Grade(Verdict.UNKNOWN, f"gold answer longer than {MAX_ANSWER_CHARACTERS} characters", answer)
    return _compare_all(answer, accepted)


def _compare_all(answer: str, golds: Sequence[str]) -> Grade | _Task:
    """Right if any gold is met; wrong only if all are told apart; algebra for what is open."""
    outcomes = {gold: compare_answers(answer, gold) for gold in golds}
    if Outcome.SAME in outcomes.values():
        return Grade(Verdict.RIGHT, Outcome.SAME.value, answer)
    if Outcome.ALGEBRA in outcomes.values():
        return answer, tuple(gold for gold, outcome in outcomes.items() if outcome is not Outcome.DIFFERENT)
    unclear = [outcome for outcome in outcomes.values() if outcome is not Outcome.DIFFERENT]
    if unclear:
        return Grade(Verdict.UNKNOWN, unclear[0].value, answer)
    return Grade(Verdict.WRONG, Outcome.DIFFERENT.value, answer)


def _grade_by_algebra(answer: str, golds: tuple[str, ...]) -> Grade:
    """Compare with math-verify for what the conventions leave open: in a worker."""
    unclear = []
    for gold in golds:
        outcome = compare_answers(answer, gold, algebra.equivalent)
        if outcome is Outcome.SAME:
            return Grade(Verdict.RIGHT, "equivalent by math-verify", answer)
        if outcome is not Outcome.DIFFERENT:
            unclear.append(outcome)
    if unclear:
        return Grade(Verdict.UNKNOWN, unclear[0].value, answer)
    return Grade(Verdict.WRONG, "not equivalent by math-verify", answer)


def _limit_memory(memory_bytes: int) -> None:
    """Worker initialiser: an allocation beyond the limit raises MemoryError in the worker, and there alone.

    The limit is counted from here: a script that imports torch has its workers import it too, which would leave them
    no room, and every answer unknown.
    """
    import resource

    algebra.load()  # libraries first, then the limit
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _worker_context() -> multiprocessing.context.BaseContext:
    """A fork server, not a fork: forking a parent in which torch has started threads can deadlock the child.

    The server loads math-verify once, so that the successor of a killed worker starts in milliseconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["redi_lab.grading.grader", "math_verify"])
    return context


@final
class Grader:
    """Grades many completions, algebra in worker processes; a context manager that owns its workers.

    Workers start at the first answer that needs them. Equal comparisons are made once.

    Args:
        num_workers: Worker processes, at least 1.
        timeout_seconds: Time for one answer; after it the worker is killed and the verdict is unknown.
        memory_mb: Address space that one worker may take beyond that of its libraries, in MiB.
        answers: Where completions state their answer, see `extract_answer`.

    Raises:
        ValueError: A limit is not positive, or `answers` is unknown.
    """

    def __init__(
        self,
        num_workers: int = 2,
        timeout_seconds: float = 10.0,
        memory_mb: int = 1024,
        answers: Answers = "boxed",
    ) -> None:
        for name, value in (
            ("num_workers", num_workers),
            ("timeout_seconds", timeout_seconds),
            ("memory_mb", memory_mb),
        ):
            if not value > 0:
                raise ValueError(f"Grader: {name} must be positive, got {value}")
        if answers not in ANSWERS:
            raise ValueError(f"Grader: answers must be one of {', '.join(ANSWERS)}, got {answers}")
        self._answers = answers
        self._num_workers = num_workers
        self._timeout_seconds = timeout_seconds
        self._memory_mb = memory_mb
        self._pool: ProcessPool | None = None
        self._recent: OrderedDict[_Task, Any] = OrderedDict()

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
        self.close()

    def close(self) -> None:
        """Stop the workers. The grader may be used again; it then starts new ones."""
        if self._pool is not None:
            self._pool.stop()
            self._pool.join()
            self._pool = None
            self._recent.clear()

    def grade_all(
        self, pairs: Sequence[tuple[str, Gold]], progress: Callable[[int, int], None] | None = None
    ) -> list[Grade]:
        """Grade (prediction, gold) pairs, in their order.

        Args:
            pairs: Completions with their accepted answer or answers.
            progress: Called with (number graded, number of pairs).

        Returns:
            One grade a pair; time-outs, crashes and exhausted memory are unknown with that reason.
        """
        grades: list[Grade] = []
        for made in self.grade_stream(pairs):
            grades.append(made)
            if progress is not None:
                progress(len(grades), len(pairs))
        return grades

    def grade_stream(self, pairs: Iterable[tuple[str, Gold]]) -> Iterator[Grade]:
        """Grade pairs as they come, in their order, with a bounded number in memory.

        Yields:
            One grade a pair; time-outs, crashes and exhausted memory are unknown with that reason.
        """
        waiting: deque[Grade | tuple[_Task, Any]] = deque()
        for prediction, gold in pairs:
            decided = _grade_directly(prediction, gold, self._answers)
            waiting.append(decided if isinstance(decided, Grade) else (decided, self._schedule(decided)))
            while waiting and (isinstance(waiting[0], Grade) or len(waiting) > WINDOW):
                yield self._collect(waiting.popleft())
        while waiting:
            yield self._collect(waiting.popleft())

    def _collect(self, item: Grade | tuple[_Task, Any]) -> Grade:
        """The grade itself, or the one that a worker made; what became of a worker that was killed is asked again."""
        if isinstance(item, Grade):
            return item
        task, future = item
        try:
            return _result(task, future)
        except ProcessExpired:  # by the answer, or by a want of memory that was none of its doing
            if self._recent.get(task) is future:
                del self._recent[task]
        try:
            return _result(task, self._schedule(task))
        except ProcessExpired:
            return Grade(Verdict.UNKNOWN, "grader crashed", task[0])

    def _schedule(self, task: _Task) -> Any:
        """The future of a comparison; that of an equal one where it was asked for lately."""
        if task in self._recent:
            self._recent.move_to_end(task)
            return self._recent[task]
        future = self._workers().schedule(_grade_by_algebra, task, timeout=self._timeout_seconds)
        self._recent[task] = future
        if len(self._recent) > WINDOW:
            self._recent.popitem(last=False)
        return future

    def _workers(self) -> ProcessPool:
        if self._pool is None:
            self._pool = ProcessPool(
                max_workers=self._num_workers,
                max_tasks=TASKS_PER_WORKER,
                initializer=_limit_memory,
                initargs=(self._memory_mb * 2**20,),
                context=_worker_context(),
            )
        return self._pool


def _result(task: _Task, future: Any) -> Grade:
    """The grade that a worker made, or unknown with the limit that it met."""
    try:
        made: Grade = future.result()
    except FutureTimeoutError:
        return Grade(Verdict.UNKNOWN, "timeout", task[0])
    except MemoryError:
        return Grade(Verdict.UNKNOWN, "out of memory", task[0])
    return made
