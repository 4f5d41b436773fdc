"""Our own verdict on the generations of a corpus, as one more verifier or where there is none.

It happens in the parent process: the grader has limited worker processes of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from redi_lab.data.traces import Generation, Problem
from redi_lab.grading.grader import Grader, Verdict
from redi_lab.verbs.curate.worker import Chunk

GRADER = "grader"
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
    wanted = [
        (place, number)
        for place, (_, problem) in enumerate(chunk)
        if isinstance(problem, Problem)
        for number, generation in enumerate(problem.generations)
        if when == "always" or all(word is None for _, word in generation.verdicts)
    ]
    tasks: list[tuple[str, str]] = []
    for place, number in wanted:
        problem = chunk[place][1]
        assert isinstance(problem, Problem)
        if problem.answer is not None:
            tasks.append((problem.generations[number].text, problem.answer))
    grades = iter(grader.grade_all(tasks))
    graded = [(index, problem) for index, problem in chunk]
    for place, number in wanted:
        index, problem = graded[place]
        assert isinstance(problem, Problem)
        correct, reason = None, NO_GOLD
        if problem.answer is not None:
            grade = next(grades)
            correct, reason = _WORDS[grade.verdict], grade.reason
        generations = list(problem.generations)
        generations[number] = _with_word(generations[number], correct, reason, when)
        graded[place] = (index, replace(problem, generations=tuple(generations)))
    return graded


def _with_word(generation: Generation, correct: bool | None, reason: str, when: str) -> Generation:
    earlier = generation.verdicts if when == "always" else ()  # nulls, which the grader stands in for
    return replace(
        generation,
        verdicts=(*earlier, (GRADER, correct)),
        unknown_reason=reason if correct is None else generation.unknown_reason,
    )
