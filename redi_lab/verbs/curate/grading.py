"""Our own verdict on the generations of a corpus, as one more verifier or where there is none.

On one machine it happens in the parent process: the grader has limited worker processes of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from redi_lab.curation.hygiene import GRADER
from redi_lab.data.traces import Dropped, Generation, Problem
from redi_lab.grading.grader import Grade, Grader, Verdict

Chunk = Sequence[tuple[int, Problem | Dropped]]
"""Rows with their index in the source."""
NO_GOLD = "no answer to grade against"

_WORDS = {Verdict.RIGHT: True, Verdict.WRONG: False, Verdict.UNKNOWN: None}


def graded_chunks(chunks: Iterable[Chunk], when: str, limits: Mapping[str, Any]) -> Iterator[Chunk]:
    """The chunks as they come, with the grader's verdicts.

    Args:
        chunks: rows with their index.
        when: "never", or see `grade_chunk`.
        limits: arguments of `Grader`.
    """
    if when == "never":
        yield from chunks
        return
    with Grader(**limits) as grader:
        for chunk in chunks:
            yield grade_chunk(chunk, when, grader)


def grade_chunk(chunk: Chunk, when: str, grader: Grader) -> Chunk:
    """Add the grader's verdict to generations.

    Args:
        chunk: rows with their index.
        when: "always", or "missing": only where no verifier says right or wrong.
        grader: gives the verdicts.
    """
    tasks = [
        (generation.text, problem.answer)
        for _, problem in chunk
        if isinstance(problem, Problem) and problem.answer is not None
        for generation in problem.generations
        if _is_wanted(generation, when)
    ]
    grades = iter(grader.grade_all(tasks))
    return [
        (index, problem if isinstance(problem, Dropped) else _graded(problem, when, grades)) for index, problem in chunk
    ]


def _is_wanted(generation: Generation, when: str) -> bool:
    return when == "always" or all(word is None for _, word in generation.verdicts)


def _graded(problem: Problem, when: str, grades: Iterator[Grade]) -> Problem:
    """The problem with the next grades, one for each generation that is to have one."""
    generations = []
    for generation in problem.generations:
        if _is_wanted(generation, when):
            correct, reason = None, NO_GOLD
            if problem.answer is not None:
                grade = next(grades)
                correct, reason = _WORDS[grade.verdict], grade.reason
            earlier = generation.verdicts if when == "always" else ()  # nulls, which the grader stands in for
            unknown = reason if correct is None else generation.unknown_reason
            generation = replace(generation, verdicts=(*earlier, (GRADER, correct)), unknown_reason=unknown)
        generations.append(generation)
    return replace(problem, generations=tuple(generations))
