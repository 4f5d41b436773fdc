"""The groups curation, steps and omega: how verdicts, wrong steps and token weights are found."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from redi_lab.config.schema.base import Count, PositiveShare, Settings, Text
from redi_lab.config.schema.evaluation import GraderConfig
from redi_lab.errors import UserError

Duplicates = Literal["keep", "exact", "near"]
Flaw = Literal[
    "cut_off", "no_answer", "unknown", "disputed", "regraded_right", "near_positive", "loop", "other_language", "long"
]


class CurationConfig(Settings):
    """Rules of a curation."""

    unknown: Literal["unused", "negative"]
    grader: Literal["never", "missing", "always"]
    require_complete: bool
    require_answer: bool
    demonstrations: Literal["first", "all"]
    negatives: Literal["paired", "all"]
    pair_order: Literal["first", "random", "length_matched", "nearest", "longest_prefix"]
    pairs_per_problem: Count | None
    problem_duplicates: Duplicates
    generation_duplicates: Duplicates
    near_threshold: PositiveShare
    drop_negatives: list[Flaw]
    benchmarks: list[Text]
    ngram: Count
    tokenizer: Text | None
    num_workers: int = Field(ge=0, le=1024)
    grading: GraderConfig

    @model_validator(mode="after")
    def _check_benchmarks(self) -> Self:
        for file in self.benchmarks:
            if not Path(file).is_file():
                raise UserError(f"curation.benchmarks: {file}: no such file; give JSONL files of {{problem}}")
        return self


class StepsConfig(Settings):
    """How the first wrong step of a trace is found."""

    split: Literal["lines", "paragraphs", "sentences"]
    search: Literal["all", "binary"]
    max_rollouts: Count | None
    confidence: PositiveShare
    recovery: Annotated[float, Field(gt=0, lt=1)]


class OmegaConfig(Settings):
    """How scores of tokens become weights."""

    top_share: PositiveShare | None
