"""What a worker process of `curate` runs. Apart from the rest of the verb, so that workers start quickly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

from redi_lab.curation.curator import RowCurator, RowResult, RowRules
from redi_lab.curation.decontamination import index_benchmarks
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.grading.extraction import Answers, extract_answer
from redi_lab.grading.grader import Grader
from redi_lab.verbs.curate.grading import Chunk, grade_chunk


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
        grading: when rows are graded here, and arguments of the `Grader`; None: they are as they are to be.
    """

    rules: RowRules
    tokenizer: str | None
    prompt_template: str
    benchmarks: tuple[str, ...]
    ngram: int
    answers: Answers
    grading: tuple[str, Mapping[str, Any]] | None = None

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
        when, limits = self.grading
        return partial(grade_chunk, when=when, grader=Grader(**limits))

    def curator(self) -> RowCurator:
        """What curates a row."""
        benchmarks = index_benchmarks(map(Path, self.benchmarks), self.ngram) if self.benchmarks else None
        return RowCurator(self.rules, self.encoder(), benchmarks, partial(_has_answer, answers=self.answers))


def _has_answer(text: str, answers: Answers) -> bool:
    return extract_answer(text, answers) is not None
