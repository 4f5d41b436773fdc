"""OpenR1-Math-220k as a `TraceSource`; not the corpus of the paper, which is OpenR1-Math-Raw with other columns.

    OpenR1Math220kSource().load()                     # from the hub, configuration "default"
    OpenR1Math220kSource("220k/train.jsonl").load()   # a local file or folder with the same columns

Here `correctness_math_verify` is there for every generation, `correctness_llama` is null in most rows (that judge was
not asked), and so may be `finish_reasons`. A generation is right if every verifier that was asked accepts it, wrong if
every one rejects it and it is complete, and otherwise unknown: used neither way in training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import final

from redi_lab.data.openr1 import (
    EMPTY_GENERATION,
    NO_PROBLEM,
    NO_VERDICTS,
    count_generations,
    is_verdict_list,
    parse_answer,
)
from redi_lab.data.rows import OnProgress, Row, RowTable, open_rows, tracked_rows
from redi_lab.data.selection import NO_GENERATIONS, curate
from redi_lab.data.traces import Dropped, Generation, Problem, TraceCorpus
from redi_lab.data.verdicts import decide, truncation
from redi_lab.errors import UserError

_COLUMNS = ("problem", "source", "uuid", "generations", "correctness_math_verify", "correctness_llama")
_VERIFIERS = {"math_verify": "correctness_math_verify", "llama": "correctness_llama"}
_ALWAYS_ASKED = "math_verify"


@final
class OpenR1Math220kSource:
    """The demonstrations and pairs of OpenR1-Math-220k, in the order of the source.

    Args:
        path: hub id, or a local file or folder (see `redi_lab.data.rows`).
        split: of the hub data set.
        revision: of the hub data set.
        excluded_sources: values of the column `source` whose rows are dropped.
        num_heldout: problems with an answer that can be graded, kept for evaluation.
        seed: of that choice.
        streaming: read a hub data set as it is downloaded, without keeping it on disk.
        on_progress: called while loading with rows done and rows in all, over all passes.
    """

    def __init__(
        self,
        path: str = "open-r1/OpenR1-Math-220k",
        split: str = "train",
        revision: str | None = None,
        excluded_sources: Sequence[str] = (),
        num_heldout: int = 0,
        seed: int = 0,
        streaming: bool = False,
        on_progress: OnProgress | None = None,
    ) -> None:
        if isinstance(excluded_sources, str):
            raise UserError(f"data.excluded_sources={excluded_sources!r}: give a list, such as [{excluded_sources}]")
        self.path = path
        self.split = split
        self.revision = revision
        self.excluded_sources = tuple(excluded_sources)
        self.num_heldout = num_heldout
        self.seed = seed
        self._streaming = streaming
        self._on_progress = on_progress
        self._opened: RowTable | None = None

    def digest(self) -> str:
        """The sha256 of the content (or commit) and of the options.

        Raises:
            UserError: the data is not there.
        """
        options = [self.split, sorted(self.excluded_sources), self.num_heldout, self.seed]
        return hashlib.sha256(json.dumps([type(self).__name__, self.table().digest(), *options]).encode()).hexdigest()

    def load(self) -> TraceCorpus:
        """Read and select.

        Raises:
            UserError: the data is not there or not readable, has other columns, two rows share an id, too few problems
                can be held out, or nothing is left to train on.
        """
        table = self.table()
        _check_columns(next(table.rows()))
        rows = tracked_rows(table, self._on_progress, passes=2 if self.num_heldout else 1)
        return curate(
            lambda: self._problems(rows()),
            source=table.source,
            digest=self.digest(),
            num_heldout=self.num_heldout,
            seed=self.seed,
        )

    def problems(self) -> Iterator[Problem | Dropped]:
        """Every raw row, in the order of the source.

        Raises:
            UserError: the data is not there or not readable, or has other columns.
        """
        _check_columns(next(self.table().rows()))
        return self._problems(self.table().rows())

    def table(self) -> RowTable:
        """The raw rows.

        Raises:
            UserError: the data is not there.
        """
        if self._opened is None:  # kept, so that digest and load agree on the commit of a hub data set
            self._opened = open_rows(self.path, split=self.split, revision=self.revision, streaming=self._streaming)
        return self._opened

    def _problems(self, rows: Iterator[Row]) -> Iterator[Problem | Dropped]:
        for index, row in enumerate(rows):
            yield parse_row(row.values, index, self.excluded_sources)


def parse_row(values: dict[str, object], index: int, excluded_sources: tuple[str, ...]) -> Problem | Dropped:
    """One raw row as a problem, or the rule that drops it. Its id is its uuid, else its index."""
    uuid, source, problem = (values.get(key) for key in ("uuid", "source", "problem"))
    identity = uuid if isinstance(uuid, str) and uuid else str(index)
    number = count_generations(values)
    if source in excluded_sources:
        return Dropped(identity, f"source {source}", number)
    if not isinstance(problem, str) or not problem.strip():
        return Dropped(identity, NO_PROBLEM, number)
    generations = parse_generations(values)
    if isinstance(generations, str):
        return Dropped(identity, generations, number)
    return Problem(identity, problem, parse_answer(values), generations, source if isinstance(source, str) else None)


def parse_generations(values: dict[str, object]) -> tuple[Generation, ...] | str:
    """The generations with the words of the verifiers that were asked, or the reason to drop the row."""
    texts = values.get("generations")
    if not isinstance(texts, list) or not texts:
        return NO_GENERATIONS
    asked = {
        name: values.get(column)
        for name, column in _VERIFIERS.items()
        if name == _ALWAYS_ASKED or values.get(column) is not None
    }
    verdicts = [value for value in asked.values() if is_verdict_list(value, len(texts))]
    if len(verdicts) < len(asked):
        return NO_VERDICTS
    if not all(isinstance(text, str) and text.strip() for text in texts):
        return EMPTY_GENERATION
    reasons = values.get("finish_reasons")
    if not isinstance(reasons, list) or len(reasons) != len(texts):
        reasons = [None] * len(texts)  # null in many rows
    return tuple(
        _judged(Generation(text, None, tuple(zip(asked, words, strict=True)), None if reason is None else str(reason)))
        for text, reason, *words in zip(texts, reasons, *verdicts, strict=True)
    )


def _judged(generation: Generation) -> Generation:
    decision = decide(generation, is_truncated=truncation(generation) is not None, has_answer=True)
    return Generation(generation.text, decision.correct, generation.verdicts, generation.finish_reason)


def _check_columns(row: Row) -> None:
    missing = [column for column in _COLUMNS if column not in row.values]
    if missing:
        raw = " (these are columns of OpenR1-Math-Raw: data=openr1_math)" if "correctness" in row.values else ""
        raise UserError(
            f"{row.where}: not a row of OpenR1-Math-220k: without {', '.join(missing)}; "
            f"it has {', '.join(row.values)}{raw}"
        )
