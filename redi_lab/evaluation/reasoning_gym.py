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
from typing import Any, final

from pebble import ProcessExpired, ProcessPool

from redi_lab.data.reasoning_gym import ReasoningGymSource
from redi_lab.evaluation.benchmarks import EvalProblem
from redi_lab.grading.extraction import Answers, extract_answer
from redi_lab.grading.grader import MAX_ANSWER_CHARACTERS, Grade, Verdict, limit_memory

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
    """See `redi_lab.evaluation.benchmarks.Verifier`.

    Args:
        source: whose problems they are.
        answers: where completions state their answer, see `extract_answer`.
        num_workers: worker processes.
        timeout_seconds: time for one answer.
        memory_mb: what a worker may take beyond its libraries, in MiB.
    """

    def __init__(
        self, source: ReasoningGymSource, answers: Answers, num_workers: int, timeout_seconds: float, memory_mb: int
    ) -> None:
        self._source = source
        self._answers = answers
        self._num_workers = num_workers
        self._timeout_seconds = timeout_seconds
        self._memory_mb = memory_mb

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides a verdict."""
        return {
            "name": "reasoning-gym",
            "version": version("reasoning-gym"),
            "answers": self._answers,
            "timeout_seconds": self._timeout_seconds,
            "memory_mb": self._memory_mb,
        }

    def grade_all(self, pairs: Iterable[tuple[str, EvalProblem]]) -> list[Grade]:
        """A verdict for each completion of a problem, in order."""
        context = multiprocessing.get_context("forkserver")
        limit = (self._memory_mb * 2**20,)
        with ProcessPool(self._num_workers, initializer=_begin_worker, initargs=limit, context=context) as pool:
            tasks = [self._begin(pool, text, problem) for text, problem in pairs]
            return [task if isinstance(task, Grade) else _collected(*task) for task in tasks]

    def _begin(self, pool: ProcessPool, text: str, problem: EvalProblem) -> Grade | tuple[str, Any]:
        """The grade, where no scorer is needed; else the answer, and the future of its grade."""
        answer = extract_answer(text, self._answers)
        if answer is None:
            return Grade(Verdict.UNKNOWN, "no final answer", None)
        if len(answer) > MAX_ANSWER_CHARACTERS:
            reason = f"answer longer than {MAX_ANSWER_CHARACTERS} characters"
            return Grade(Verdict.UNKNOWN, reason, answer[:MAX_ANSWER_CHARACTERS])
        task, entry = problem.id.partition("/")[0], self._source.entry(problem.id)
        allowed = RUNS_ANSWERS.get(task)
        if allowed is not None and answer != entry["answer"] and not allowed.fullmatch(answer):
            return Grade(Verdict.UNKNOWN, "its scorer would run this answer as a program", answer)
        scored = pool.schedule(
            score, (task, self._source.configuration(task), entry, answer), timeout=self._timeout_seconds
        )
        return answer, scored


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
