"""OpenR1-Math-Raw as a `TraceSource`: the selection of the REDI paper (§3), without its token limits.

    OpenR1Source().load()                          # from the hub, about 8 GB
    OpenR1Source("openr1/train.jsonl").load()      # a local file or folder with the same columns

Rules, in order, each refusal counted under its name:

1. A row's id is its index in the source (from 0). The result is in the order of the paper's shuffle, which is
   `datasets.Dataset.shuffle(seed=42)`, that is `numpy.random.default_rng(42).permutation(num_rows)`. Each row is
   selected for itself, so rows are read in the order of the source and only the selected ones are shuffled.
2. `problem_is_valid` must be "yes" (stripped, any case) and `source` none of `excluded_sources`.
3. Problem, generations and both verdict lists, as long as the generations, must be there. One rule is ours: a row with
   an empty generation is dropped, since nothing can be learnt from it as an answer.
4. A generation is correct iff `llama_verification` and `math_verify_reparsed_answer` are both true; otherwise it is
   incorrect, a missing verdict included. (So a right trace that one verifier rejects can become a negative.)
5. Demonstrations and pairs are chosen by `redi_lab.data.selection.select`.

The limits on tokens (800 for prompts, 19,000 for responses) are applied after tokenisation, by the data module.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TypeGuard, final

import numpy as np

from redi_lab.data.rows import OnProgress, Row, RowTable, open_rows, tracked_rows
from redi_lab.data.selection import NO_GENERATIONS, curate
from redi_lab.data.traces import Demonstration, Dropped, Generation, Pair, Problem, TraceCorpus
from redi_lab.errors import UserError

NOT_VALID = "problem_is_valid"
NO_PROBLEM = "no problem"
NO_VERDICTS = "verdict lists do not match the generations"
EMPTY_GENERATION = "empty generation"

_COLUMNS = ("problem", "problem_is_valid", "source", "generations", "correctness")
_VERDICTS = ("llama_verification", "math_verify_reparsed_answer")
_NOT_AN_ANSWER = ("", "proof", "notfound")  # what the column `answer` holds where nothing can be graded


@final
class OpenR1Source:
    """The demonstrations and pairs of OpenR1-Math-Raw.

    Args:
        path: hub id, or a local file or folder (see `redi_lab.data.rows`).
        split: of the hub data set.
        revision: of the hub data set.
        shuffle_seed: of the order of the result, and of the choice of held-out problems.
        excluded_sources: values of the column `source` whose rows are dropped.
        num_heldout: valid problems with an answer that can be graded, kept for evaluation; 0 in the paper.
        streaming: read a hub data set as it is downloaded, without keeping it on disk.
        on_progress: called while loading with rows done and rows in all, over all passes.
    """

    def __init__(
        self,
        path: str = "open-r1/OpenR1-Math-Raw",
        split: str = "train",
        revision: str | None = None,
        shuffle_seed: int = 42,
        excluded_sources: Sequence[str] = ("cn_k12",),
        num_heldout: int = 0,
        streaming: bool = False,
        on_progress: OnProgress | None = None,
    ) -> None:
        if isinstance(excluded_sources, str):
            raise UserError(f"data.excluded_sources={excluded_sources!r}: give a list, such as [{excluded_sources}]")
        self.path = path
        self.split = split
        self.revision = revision
        self.shuffle_seed = shuffle_seed
        self.excluded_sources = tuple(excluded_sources)
        self.num_heldout = num_heldout
        self._streaming = streaming
        self._on_progress = on_progress
        self._opened: RowTable | None = None

    def digest(self) -> str:
        """The sha256 of the content (or commit) and of the options; reads the files once, or asks the hub once.

        Raises:
            UserError: the data is not there.
        """
        options = [self.split, self.shuffle_seed, sorted(self.excluded_sources), self.num_heldout]
        return hashlib.sha256(json.dumps([type(self).__name__, self.table().digest(), *options]).encode()).hexdigest()

    def load(self) -> TraceCorpus:
        """Read, select and shuffle.

        Raises:
            UserError: the data is not there or not readable, has other columns, too few problems can be held out, or
                nothing is left to train on.
        """
        table = self.table()
        check_columns(next(table.rows()))
        rows = tracked_rows(table, self._on_progress, passes=2 if self.num_heldout else 1)
        corpus = curate(
            lambda: self._problems(rows()),
            source=table.source,
            digest=self.digest(),
            num_heldout=self.num_heldout,
            seed=self.shuffle_seed,
        )
        return shuffled(corpus, self.shuffle_seed)

    def problems(self) -> Iterator[Problem | Dropped]:
        """Every raw row, parsed by the rules above, in the order of the source.

        Raises:
            UserError: the data is not there or not readable, or has other columns.
        """
        check_columns(next(self.table().rows()))
        return self._problems(self.table().rows())

    def _problems(self, rows: Iterator[Row]) -> Iterator[Problem | Dropped]:
        for index, row in enumerate(rows):
            yield parse_row(row.values, str(index), self.excluded_sources)

    def table(self) -> RowTable:
        """The raw rows.

        Raises:
            UserError: the data is not there.
        """
        if self._opened is None:  # kept, so that digest and load agree on the commit of a hub data set
            self._opened = open_rows(self.path, split=self.split, revision=self.revision, streaming=self._streaming)
        return self._opened


def check_columns(row: Row) -> None:
    """Check that a row has the columns of OpenR1-Math-Raw.

    Raises:
        UserError: it lacks some; the message says if it looks like OpenR1-Math-220k, a different data set.
    """
    missing = [column for column in _COLUMNS if column not in row.values]
    if not missing:
        return
    other = " (these are columns of OpenR1-Math-220k)" if "correctness_math_verify" in row.values else ""
    raise UserError(
        f"{row.where}: not a row of OpenR1-Math-Raw: without {', '.join(missing)}; "
        f"it has {', '.join(row.values)}{other}"
    )


def parse_row(values: dict[str, object], identity: str, excluded_sources: tuple[str, ...]) -> Problem | Dropped:
    """One raw row as a problem, or the rule that drops it."""
    valid, source, problem = (values.get(key) for key in ("problem_is_valid", "source", "problem"))
    number = count_generations(values)
    if not isinstance(valid, str) or valid.strip().lower() != "yes":
        return Dropped(identity, NOT_VALID, number)
    if source in excluded_sources:
        return Dropped(identity, f"source {source}", number)
    if not isinstance(problem, str) or not problem.strip():
        return Dropped(identity, NO_PROBLEM, number)
    generations = parse_generations(values)
    if isinstance(generations, str):
        return Dropped(identity, generations, number)
    return Problem(identity, problem, parse_answer(values), generations, source if isinstance(source, str) else None)


def count_generations(values: dict[str, object]) -> int:
    """The number of generations of a raw row, whatever else is wrong with it."""
    generations = values.get("generations")
    return len(generations) if isinstance(generations, list) else 0


def parse_answer(values: dict[str, object]) -> str | None:
    """The gold answer, where it is one that can be graded."""
    answer = values.get("answer")
    return answer if isinstance(answer, str) and answer.strip().lower() not in _NOT_AN_ANSWER else None


def parse_generations(values: dict[str, object]) -> tuple[Generation, ...] | str:
    """The generations with their joint verdict ("LandMV"), or the reason to drop the row."""
    texts = values.get("generations")
    if not isinstance(texts, list) or not texts:
        return NO_GENERATIONS
    correctness = values.get("correctness")
    verdicts = [correctness.get(name) for name in _VERDICTS] if isinstance(correctness, dict) else [None]
    if not all(is_verdict_list(verdict, len(texts)) for verdict in verdicts):
        return NO_VERDICTS
    if not all(isinstance(text, str) and text.strip() for text in texts):
        return EMPTY_GENERATION
    return tuple(
        Generation(text, all(both), tuple(zip(_VERDICTS, both, strict=True)))
        for text, *both in zip(texts, *verdicts, strict=True)
    )


def shuffled(corpus: TraceCorpus, seed: int) -> TraceCorpus:
    """The corpus in the order of `datasets.Dataset.shuffle(seed)` over all rows read; ids are row indices."""
    place = np.argsort(np.random.default_rng(seed).permutation(corpus.counts.rows_read))

    def by_place(record: Demonstration | Pair) -> int:
        return int(place[int(record.id)])

    return replace(
        corpus,
        demonstrations=tuple(sorted(corpus.demonstrations, key=by_place)),
        pairs=tuple(sorted(corpus.pairs, key=by_place)),
    )


def is_verdict_list(value: object, length: int) -> TypeGuard[list[bool | None]]:
    """Whether `value` is a list of `length` verdicts, each true, false or null."""
    return (
        isinstance(value, list)
        and len(value) == length
        and all(item is None or isinstance(item, bool) for item in value)
    )
