r"""Grade completions against accepted answers: right, wrong, or unknown (which is never a negative example).

The conventions of docs/grading.md come first (`redi_lab.evaluation.equivalence`): quick, exact and without a library,
so most benchmarks start no worker. The rest goes to math-verify, which can take unlimited time and memory on hostile
text; `Grader` therefore runs it in worker processes under a time and a memory limit, and an answer that breaks its
worker costs that one answer:

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

from redi_lab.evaluation.answers import extract_answer, gold_answer, spell_symbols
from redi_lab.evaluation.equivalence import Outcome, compare_answers

MAX_ANSWER_CHARACTERS = 2000  # no final answer of a benchmark is near this; the comparison is never asked beyond it
LIBRARY_TIMEOUT_SECONDS = 2  # per library call inside a worker: cheaper than losing the worker
CONVENTIONS_VERSION = 1  # goes up when docs/grading.md changes a verdict, so that cached results are made anew
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


def grade(prediction: str, gold: Gold) -> Grade:
    """Grade one completion in this process. Use `Grader` for text that a model wrote.

    Length limits apply, but time is limited only by math-verify's own alarms and memory not at all.

    Args:
        prediction: The completion, of any length.
        gold: The accepted answer, or several of which one must be met.

    Raises:
        RuntimeError: Outside the main thread, where the alarms cannot work.
        ValueError: `gold` is empty.
    """
    if threading.current_thread() is not threading.main_thread():
        raise RuntimeError("grade() limits time by signals and needs the main thread; use Grader elsewhere")
    decided = _grade_directly(prediction, gold)
    return decided if isinstance(decided, Grade) else _grade_by_algebra(*decided)


def _grade_directly(prediction: str, gold: Gold) -> Grade | tuple[str, tuple[str, ...]]:
    """The grade, when no algebra is needed, else the answer and the golds that algebra must compare."""
    golds = (gold,) if isinstance(gold, str) else tuple(gold)
    if not golds:
        raise ValueError("no gold answer to grade against: give one or more")
    answer = extract_answer(prediction)
    if answer is None:
        return Grade(Verdict.UNKNOWN, "no final answer", None)
    if len(answer) > MAX_ANSWER_CHARACTERS:
        reason = f"answer longer than {MAX_ANSWER_CHARACTERS} characters"
        return Grade(Verdict.UNKNOWN, reason, answer[:MAX_ANSWER_CHARACTERS])
    accepted = tuple(gold_answer(text) for text in golds)
    return _compare_all(answer, tuple(text for text in accepted if len(text) <= MAX_ANSWER_CHARACTERS))


def _compare_all(answer: str, golds: tuple[str, ...]) -> Grade | tuple[str, tuple[str, ...]]:
    """Right if any gold is met; wrong if all are told apart; algebra for what is open, unless nothing could help."""
    outcomes = {gold: compare_answers(answer, gold) for gold in golds}
    if Outcome.SAME in outcomes.values():
        return Grade(Verdict.RIGHT, Outcome.SAME.value, answer)
    undecided = tuple(gold for gold, outcome in outcomes.items() if outcome is Outcome.UNDECIDED)
    if undecided:
        return answer, undecided
    unclear = [outcome for outcome in outcomes.values() if outcome is not Outcome.DIFFERENT]
    if unclear:
        return Grade(Verdict.UNKNOWN, unclear[0].value, answer)
    if not outcomes:
        return Grade(Verdict.UNKNOWN, f"gold answer longer than {MAX_ANSWER_CHARACTERS} characters", answer)
    return Grade(Verdict.WRONG, Outcome.DIFFERENT.value, answer)


def _grade_by_algebra(answer: str, golds: tuple[str, ...]) -> Grade:
    """Compare by math-verify: right if any gold is met, unknown if a comparison failed, else wrong."""
    failures = []
    for gold in golds:
        outcome = _algebra_outcome(spell_symbols(answer), spell_symbols(gold))
        if outcome is True:
            return Grade(Verdict.RIGHT, "equivalent by math-verify", answer)
        if isinstance(outcome, str):
            failures.append(outcome)
    if failures:
        return Grade(Verdict.UNKNOWN, failures[0], answer)
    return Grade(Verdict.WRONG, "not equivalent by math-verify", answer)


def _algebra_outcome(answer: str, gold: str) -> bool | str:
    """Whether the two are equivalent, or the reason why that cannot be told."""
    # Imported here: an all-integers benchmark never pays for sympy, and the parent process never loads it.
    from math_verify import parse, verify
    from math_verify.errors import TimeoutException

    def read(text: str) -> list[Any]:
        parsed: list[Any] = parse(_as_mathematics(text), parsing_timeout=LIBRARY_TIMEOUT_SECONDS, raise_on_error=True)
        return parsed

    try:
        parsed_gold, parsed_answer = read(gold), read(answer)
        if not parsed_gold or not parsed_answer:
            return f"math-verify cannot read the {'answer' if parsed_gold else 'gold answer'}"
        return bool(verify(parsed_gold, parsed_answer, timeout_seconds=LIBRARY_TIMEOUT_SECONDS, raise_on_error=True))
    except TimeoutException:
        return "timeout"
    except MemoryError:
        return "out of memory"
    except Exception as error:  # sympy and its LaTeX parser raise anything on odd input
        return f"math-verify failed: {type(error).__name__}"


def _as_mathematics(text: str) -> str:
    """Mark bare text as LaTeX; text that already holds delimiters or a box is left for math-verify to search."""
    return text if "$" in text or "\\boxed" in text or "\\[" in text or "\\(" in text else f"${text}$"


def _limit_memory(memory_bytes: int) -> None:
    """Worker initialiser: an allocation beyond the limit raises MemoryError in the worker, and there alone.

    The limit is counted from here: a script that imports torch has its workers import it too, which would leave them
    no room, and every answer unknown.
    """
    import logging
    import resource

    import math_verify  # noqa: F401 (libraries first, then the limit)

    logging.getLogger("math_verify").setLevel(logging.ERROR)  # time-outs are reported as grades
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _worker_context() -> multiprocessing.context.BaseContext:
    """A fork server, not a fork: forking a parent in which torch has started threads can deadlock the child.

    The server loads math-verify once, so that the successor of a killed worker starts in milliseconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["redi_lab.evaluation.grading", "math_verify"])
    return context


@final
class Grader:
    """Grades many completions, algebra in worker processes; a context manager that owns its workers.

    Workers start at the first answer that needs them. Equal comparisons are made once.

    Args:
        num_workers: Worker processes, at least 1.
        timeout_seconds: Time for one answer; after it the worker is killed and the verdict is unknown.
        memory_mb: Address space that one worker may take beyond that of its libraries, in MiB.

    Raises:
        ValueError: A limit is not positive.
    """

    def __init__(self, num_workers: int = 2, timeout_seconds: float = 10.0, memory_mb: int = 1024) -> None:
        for name, value in (
            ("num_workers", num_workers),
            ("timeout_seconds", timeout_seconds),
            ("memory_mb", memory_mb),
        ):
            if not value > 0:
                raise ValueError(f"Grader: {name} must be positive, got {value}")
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
            decided = _grade_directly(prediction, gold)
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
