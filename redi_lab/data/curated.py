"""The files of a curation (sft, pairs and negatives.parquet): their columns, their writer, and training from them.

    with CuratedWriter(folder) as writer:
        writer.add(result)
    corpus = CuratedSource(folder, num_heldout=100).load()

Equal rows give equal bytes: the writer's settings are fixed, and row groups are cut by what is in them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any, final

import pyarrow as pa

from redi_lab.data.rows import OnProgress, read_parquet
from redi_lab.data.selection import LEAKS_HELD_OUT, hold_out, text_key
from redi_lab.data.traces import (
    UNWEIGHTED,
    Demonstration,
    Negative,
    Pair,
    Problem,
    SelectionCounts,
    TraceCorpus,
    TraceWeights,
)
from redi_lab.errors import UserError
from redi_lab.files import file_digest

SFT_FILE = "sft.parquet"
PAIRS_FILE = "pairs.parquet"
NEGATIVES_FILE = "negatives.parquet"
NO_PAIR = "no further pair of this problem"
NO_DEMONSTRATION = "no further demonstration of this problem"
_SIDES = ("chosen", "rejected")
_OF_PROBLEM = ("id", "problem", "answer", "source_row", "pass_rate")
_OF_TRACE = (*_OF_PROBLEM, "completion", "error", *UNWEIGHTED.as_columns())
_OF_PAIR = (
    *_OF_PROBLEM,
    *_SIDES,
    "rejected_error",
    *(name for side in _SIDES for name in UNWEIGHTED.as_columns(f"{side}_")),
)
_FILES = {SFT_FILE: _OF_TRACE, PAIRS_FILE: _OF_PAIR, NEGATIVES_FILE: _OF_TRACE}
"""What training reads of each file."""

_SHARED_FIRST = [pa.field("id", pa.string(), nullable=False), pa.field("problem", pa.string(), nullable=False)]
_PROVENANCE = [
    pa.field("answer", pa.string()),
    pa.field("source", pa.string()),
    pa.field("source_row", pa.int64(), nullable=False),
    pa.field("pass_rate", pa.float64()),
]


def _weight_fields(side: str = "") -> list[pa.Field]:
    """Columns of `TraceWeights`."""
    place = [pa.field("start", pa.int64()), pa.field("end", pa.int64())]
    span = pa.struct([*place, pa.field("weight", pa.float64())])
    step = pa.struct([*place, pa.field("right", pa.bool_()), pa.field("advantage", pa.float64())])
    return [
        pa.field(f"{side}weight", pa.float64(), nullable=False),
        pa.field(f"{side}spans", pa.list_(span), nullable=False),
        pa.field(f"{side}steps", pa.list_(step), nullable=False),
    ]


TRACE_SCHEMA = pa.schema(  # of right traces as of wrong ones
    [
        *_SHARED_FIRST,
        pa.field("completion", pa.string(), nullable=False),
        *_PROVENANCE,
        pa.field("generation_index", pa.int32(), nullable=False),
        pa.field("verdicts", pa.string(), nullable=False),
        pa.field("error", pa.string()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("completion_tokens", pa.int32()),
        *_weight_fields(),
    ]
)
PAIRS_SCHEMA = pa.schema(
    [
        *_SHARED_FIRST,
        pa.field("chosen", pa.string(), nullable=False),
        pa.field("rejected", pa.string(), nullable=False),
        *_PROVENANCE,
        pa.field("chosen_index", pa.int32(), nullable=False),
        pa.field("rejected_index", pa.int32(), nullable=False),
        pa.field("chosen_verdicts", pa.string(), nullable=False),
        pa.field("rejected_verdicts", pa.string(), nullable=False),
        pa.field("rejected_error", pa.string()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("chosen_tokens", pa.int32()),
        pa.field("rejected_tokens", pa.int32()),
        pa.field("common_prefix", pa.int32(), nullable=False),
        pa.field("length_ratio", pa.float64(), nullable=False),
        *_weight_fields("chosen_"),
        *_weight_fields("rejected_"),
    ]
)


@final
class CuratedSource:
    """Trains on what a curation wrote, in the order of its files.

    Args:
        path: the results folder, with sft.parquet, pairs.parquet and negatives.parquet.
        num_heldout: problems with an answer to keep for evaluation.
        seed: seed of the choice of held-out problems.
    """

    def __init__(self, path: str, num_heldout: int = 0, seed: int = 0) -> None:
        self.path = path
        self.num_heldout = num_heldout
        self.seed = seed

    def digest(self) -> str:
        """The sha256 of the files and of the options.

        Raises:
            UserError: one of the files is missing.
        """
        content = [type(self).__name__, *map(file_digest, self._files()), self.num_heldout, self.seed]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def load(self, on_progress: OnProgress | None = None) -> TraceCorpus:
        """Read the files and hold out problems.

        Raises:
            UserError: a file is missing or has other columns, too few problems have an answer, or nothing is left to
                train on.
        """
        tables = [_read(file, columns) for file, columns in zip(self._files(), _FILES.values(), strict=True)]
        everything = [row for table in tables for row in table]
        held_out = hold_out(
            (Problem(row["id"], row["problem"], row["answer"], ()) for row in everything),
            self.num_heldout,
            self.seed,
            source=self.path,
        )
        texts = {text_key(item.problem) for item in held_out}
        kept = {row["problem"]: text_key(row["problem"]) not in texts for row in everything}
        demonstrations, pairs, negatives = ([row for row in table if kept[row["problem"]]] for table in tables)
        if not demonstrations:
            raise UserError(f"{self.path}: no demonstration is left to train on ({len(held_out)} problems held out)")
        read, used = _num_rows(*tables), _num_rows(demonstrations, pairs, negatives)
        counts = SelectionCounts(
            rows_read=read,
            dropped=_unless_zero(LEAKS_HELD_OUT, read - used - len(held_out)),
            demonstrations=len(demonstrations),
            pairs=len(pairs),
            without_pair=_unless_zero(NO_PAIR, used - len(pairs)),
            held_out=len(held_out),
            without_demonstration=_unless_zero(NO_DEMONSTRATION, used - len(demonstrations)),
        )
        counts.check()
        if on_progress is not None:
            on_progress(read, read)
        return TraceCorpus(
            self.path,
            tuple(Demonstration(**_trace(row)) for row in demonstrations),
            tuple(map(_pair, pairs)),
            held_out,
            counts,
            tuple(Negative(**_trace(row), error=row["error"]) for row in negatives),
        )

    def _files(self) -> list[Path]:
        files = [Path(self.path).expanduser() / name for name in _FILES]
        for file in files:
            if not file.is_file():
                raise UserError(
                    f"data.path={self.path}: no {file.name} there; give the results folder of `redi_lab curate`"
                )
        return files


def _trace(row: dict[str, Any]) -> dict[str, Any]:
    fields = {name: row[name] for name in ("id", "problem", "completion", "pass_rate")}
    return fields | {"weights": TraceWeights.of_columns(row)}


def _pair(row: dict[str, Any]) -> Pair:
    chosen, rejected = (TraceWeights.of_columns(row, f"{side}_") for side in _SIDES)
    texts = (row["id"], row["problem"], row["chosen"], row["rejected"])
    return Pair(*texts, chosen, rejected, row["pass_rate"], row["rejected_error"])


def _unless_zero(reason: str, number: int) -> dict[str, int]:
    return {reason: number} if number else {}


def _num_rows(*tables: list[dict[str, Any]]) -> int:
    """A problem with two demonstrations and three pairs counts as three rows."""
    most: Counter[int] = Counter()
    for table in tables:
        most |= Counter(record["source_row"] for record in table)
    return most.total()


def _read(file: Path, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    try:
        return [values for _, values in read_parquet(file, columns)]
    except UserError as error:
        raise UserError(f"{error}; curate again") from error
