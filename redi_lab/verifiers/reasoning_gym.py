"""Verdicts of reasoning-gym's own scorers: only a score of exactly 1 is right.

A scorer may take unlimited time and memory, so it runs in worker processes with limits. Some run the answer as Python;
these are given none that could reach anything: no attribute, no name of more than a letter, no call but a function's.
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Iterable, Mapping
from concurrent.futures import TimeoutError as FutureTimeoutError
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any, Self, final

from pebble import ProcessExpired, ProcessPool

from redi_lab.data.reasoning_gym import ReasoningGymSource
from redi_lab.errors import UserError
from redi_lab.grading.extraction import extract_answer
from redi_lab.grading.grader import MAX_ANSWER_CHARACTERS, Grade, Verdict, limit_memory
from redi_lab.verifiers.base import Limits, Posed

_FUNCTIONS = "sin|cos|tan|sec|csc|cot|sinh|cosh|tanh|asin|acos|atan|exp|log|ln|sqrt|pi"
_LITERAL = re.compile(r"[A-Za-z0-9_\s\[\]'\",-]*")  # without a call, an attribute or an operator that repeats
_EXPRESSION = re.compile(rf"(?:(?:{_FUNCTIONS}|[A-Za-z])(?![A-Za-z_])|\d+(?:\.\d+)?|[\s+\-*/^(),=])*", re.ASCII)
RUNS_ANSWERS = {
    **dict.fromkeys(("string_insertion", "spiral_matrix", "binary_matrix", "n_queens"), _LITERAL),  # eval
    **dict.fromkeys(
        ("simple_integration", "intermediate_integration", "polynomial_multiplication", "puzzle24", "countdown"),
        _EXPRESSION,  # sympy's parse_expr, which is eval
    ),
}
"""Tasks whose scorers run an answer as Python, and what they may be given."""


@final
class ReasoningGymVerifier:
    """See `Verifier`.

    Args:
        limits: where completions state their answer, and limits of the scorers.
        difficulty: as the problems were made, see `ReasoningGymSource`.
        options: likewise.

    Raises:
        UserError: the package is missing.
    """

    def __init__(
        self,
        limits: Limits,
        difficulty: int | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        if find_spec("reasoning_gym") is None:
            raise UserError(
                "verifier=reasoning_gym: reasoning-gym is not installed in this environment; pip install"
                " 'redi-lab[reasoning-gym]'"
            )
        self._source = ReasoningGymSource((), difficulty, options)
        self._limits = limits

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides a verdict."""
        return {
            "name": "reasoning-gym",
            "version": version("reasoning-gym"),
            "answers": self._limits.answers,
            "timeout_seconds": self._limits.timeout_seconds,
            "memory_mb": self._limits.memory_mb,
        }

    def check(self, problems: Iterable[Posed]) -> None:
        """Make each problem again.

        Raises:
            UserError: another one comes.
        """
        for problem in problems:
            if self._entry(problem) is None:
                raise UserError(
                    f"verifier=reasoning_gym: {problem.id} is not the problem that reasoning-gym makes of this id; give"
                    " verifier.difficulty and verifier.options as they were made with, or choose verifier=math"
                )

    def _entry(self, problem: Posed) -> dict[str, Any] | None:
        """What the package says of a problem, if it is one of its problems."""
        from reasoning_gym.factory import DATASETS

        task, *numbers = problem.id.split("/")
        if task not in DATASETS or len(numbers) != 2 or not all(number.isdecimal() for number in numbers):
            return None
        entry = self._source.entry(problem.id)
        return entry if entry["question"] == problem.problem else None

    def grade_all(self, pairs: Iterable[tuple[str, Posed]]) -> list[Grade]:
        """A verdict for each completion of a problem, in order."""
        context = multiprocessing.get_context("forkserver")
        limit = (self._limits.memory_mb * 2**20,)
        with ProcessPool(self._limits.num_workers, initializer=_begin_worker, initargs=limit, context=context) as pool:
            tasks = [self._begin(pool, text, problem) for text, problem in pairs]
            return [task if isinstance(task, Grade) else _collected(*task) for task in tasks]

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left open."""

    def _begin(self, pool: ProcessPool, text: str, problem: Posed) -> Grade | tuple[str, Any]:
        """The grade, where no scorer is needed; else the answer, and the future of its grade."""
        answer = extract_answer(text, self._limits.answers)
        if answer is None:
            return Grade(Verdict.UNKNOWN, "no final answer", None)
        if len(answer) > MAX_ANSWER_CHARACTERS:
            reason = f"answer longer than {MAX_ANSWER_CHARACTERS} characters"
            return Grade(Verdict.UNKNOWN, reason, answer[:MAX_ANSWER_CHARACTERS])
        entry = self._entry(problem)
        if entry is None:
            return Grade(Verdict.UNKNOWN, "not a problem of reasoning-gym under these settings", answer)
        task = problem.id.partition("/")[0]
        allowed = RUNS_ANSWERS.get(task)
        if allowed is not None and answer != entry["answer"] and not allowed.fullmatch(answer):
            return Grade(Verdict.UNKNOWN, "its scorer would run this answer as a program", answer)
        arguments = (task, self._source.configuration(task), entry, answer)
        return answer, pool.schedule(score, arguments, timeout=self._limits.timeout_seconds)


def score(task: str, configuration: Any, entry: Mapping[str, Any], answer: str) -> float:
    """What the task's scorer gives an answer, from 0 to 1."""
    from reasoning_gym.factory import DATASETS

    return float(DATASETS[task][0](configuration).score_answer(answer, entry))


def _begin_worker(memory_bytes: int) -> None:
    import reasoning_gym  # noqa: F401 - libraries first, then the limit

    limit_memory(memory_bytes)


def _collected(answer: str, future: Any) -> Grade:
    try:
        made: float = future.result()
    except FutureTimeoutError:
        return Grade(Verdict.UNKNOWN, "scorer timed out", answer)
    except ProcessExpired:
        return Grade(Verdict.UNKNOWN, "scorer crashed", answer)
    except Exception as error:  # the package's scorers raise anything at an answer that they did not expect
        return Grade(Verdict.UNKNOWN, f"scorer failed: {type(error).__name__}", answer)
    if made == 1.0:
        return Grade(Verdict.RIGHT, "score 1", answer)
    if "\\" in answer:
        return Grade(Verdict.UNKNOWN, "LaTeX, which its scorer may not read", answer)
    return Grade(Verdict.WRONG, f"score {made:.3g}", answer)
