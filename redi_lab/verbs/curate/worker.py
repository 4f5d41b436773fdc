"""What a worker process of `curate` runs, and our own verdict, as one more verifier or where there is none.

On one machine the verdict is given in the parent process: the grader has limited worker processes of its own. Apart
from the rest of the verb, so that workers start quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import final

from redi_lab.curation.curator import RowCurator, RowResult, RowRules
from redi_lab.curation.decontamination import index_benchmarks
from redi_lab.curation.hygiene import GRADER
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import Dropped, Generation, HeldOut, Problem
from redi_lab.grading.extraction import Answers, extract_answer
from redi_lab.grading.grader import Grade, Verdict
from redi_lab.verifiers.base import Verifier

Chunk = Sequence[tuple[int, Problem | Dropped]]
"""Rows with their index in the source."""
NO_GOLD = "no answer to grade against"

_WORDS = {Verdict.RIGHT: True, Verdict.WRONG: False, Verdict.UNKNOWN: None}


@final
@dataclass(frozen=True)
class WorkerPlan:
    """Makes the function that curates a chunk of rows; small enough to be sent to a process.

    Attributes:
        rules: how rows are graded, filtered and paired.
        tokenizer: folder or hub id of the student's tokenizer, or None.
        prompt_template: see `TraceEncoder`.
        benchmarks: JSONL files of evaluation problems.
        ngram: words of an n-gram that a problem must not share with them.
        answers: where generations state their answer, see `extract_answer`.
        grading: when rows are graded here, and what makes the verifier; None: they are as they are to be.
    """

    rules: RowRules
    tokenizer: str | None
    prompt_template: str
    benchmarks: tuple[str, ...]
    ngram: int
    answers: Answers
    grading: tuple[str, Callable[[], Verifier]] | None = None

    def encoder(self) -> TraceEncoder | None:
        """What counts tokens; None without a tokenizer.

        Raises:
            UserError: there is no tokenizer at that place.
        """
        if self.tokenizer is None:
            return None
        from redi_lab.backbone.hub import load_tokenizer  # imports transformers

        tokenizer = load_tokenizer(self.tokenizer, key="curation.tokenizer")
        tokenizer.model_max_length = int(1e30)  # long traces are expected and nothing is truncated: no warning
        return TraceEncoder(tokenizer, self.prompt_template, self.rules.thinking_prefix)

    def __call__(self) -> Callable[[Chunk], list[RowResult]]:
        """The function; reads the benchmarks and loads the tokenizer."""
        curator, grade = self.curator(), self.grade()
        return lambda chunk: [curator.curate(row, problem) for row, problem in grade(chunk)]

    def grade(self) -> Callable[[Chunk], Chunk]:
        """What grades a chunk, where that is done here."""
        if self.grading is None:
            return lambda chunk: chunk
        when, make_grader = self.grading
        return partial(grade_chunk, when=when, grader=make_grader())

    def curator(self) -> RowCurator:
        """What curates a row."""
        benchmarks = index_benchmarks(map(Path, self.benchmarks), self.ngram) if self.benchmarks else None
        return RowCurator(self.rules, self.encoder(), benchmarks, self.has_answer)

    def has_answer(self, text: str) -> bool:
        """Whether a generation states one."""
        return extract_answer(text, self.answers) is not None


def graded_chunks(chunks: Iterable[Chunk], when: str, make_grader: Callable[[], Verifier]) -> Iterator[Chunk]:
    """The chunks as they come, with the grader's verdicts.

    Args:
        chunks: rows with their index.
        when: "never", or see `grade_chunk`.
        make_grader: makes what gives the verdicts.
    """
    if when == "never":
        yield from chunks
        return
    with make_grader() as grader:
        for chunk in chunks:
            yield grade_chunk(chunk, when, grader)


def grade_chunk(chunk: Chunk, when: str, grader: Verifier) -> Chunk:
    """Add the grader's verdict to generations.

    Args:
        chunk: rows with their index.
        when: "always", or "missing": only where no verifier says right or wrong.
        grader: gives the verdicts.
    """
    tasks = [
        (generation.text, HeldOut(problem.id, problem.problem, (problem.answer,)))
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
