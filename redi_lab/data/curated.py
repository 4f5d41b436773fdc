"""The files of a curation (sft, pairs and negatives.parquet): their columns, their writer, and training from them.

    with CuratedWriter(folder) as writer:
        writer.add(demonstrations, pairs, negatives)  # of each row
    corpus = CuratedSource(folder, num_heldout=100).load()

Equal rows give equal bytes: the writer's settings are fixed, and row groups are cut by what is in them.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pyarrow as pa
from pyarrow.parquet import ParquetWriter

from redi_lab.data.rows import OnProgress, read_parquet
from redi_lab.data.selection import LEAKS_HELD_OUT, hold_out, text_key
from redi_lab.data.traces import Demonstration, Negative, Pair, Problem, SelectionCounts, TraceCorpus, TraceWeights
from redi_lab.errors import UserError
from redi_lab.files import file_digest

SFT_FILE = "sft.parquet"
PAIRS_FILE = "pairs.parquet"
NEGATIVES_FILE = "negatives.parquet"
NO_PAIR = "no further pair of this problem"
NO_DEMONSTRATION = "no further demonstration of this problem"
_SIDES = ("chosen", "rejected")


def _fields(names: str, kind: pa.DataType, *, nullable: bool = True) -> list[pa.Field]:
    return [pa.field(name, kind, nullable=nullable) for name in names.split()]


def _weight_fields(side: str = "") -> list[pa.Field]:
    """Columns of `TraceWeights`."""
    place = _fields("start end", pa.int64())
    span = pa.struct([*place, *_fields("weight", pa.float64())])
    step = pa.struct([*place, *_fields("right", pa.bool_()), *_fields("advantage", pa.float64())])
    return [
        pa.field(f"{side}weight", pa.float64(), nullable=False),
        pa.field(f"{side}spans", pa.list_(span), nullable=False),
        pa.field(f"{side}steps", pa.list_(step), nullable=False),
    ]


_PROVENANCE = [
    *_fields("answer source", pa.string()),
    *_fields("source_row", pa.int64(), nullable=False),
    *_fields("pass_rate", pa.float64()),
]
TRACE_SCHEMA = pa.schema(  # of right traces as of wrong ones
    [
        *_fields("id problem completion", pa.string(), nullable=False),
        *_PROVENANCE,
        *_fields("generation_index", pa.int32(), nullable=False),
        *_fields("verdicts", pa.string(), nullable=False),
        *_fields("error", pa.string()),
        *_fields("prompt_tokens completion_tokens", pa.int32()),
        *_weight_fields(),
    ]
)
PAIRS_SCHEMA = pa.schema(
    [
        *_fields("id problem chosen rejected", pa.string(), nullable=False),
        *_PROVENANCE,
        *_fields("chosen_index rejected_index", pa.int32(), nullable=False),
        *_fields("chosen_verdicts rejected_verdicts", pa.string(), nullable=False),
        *_fields("rejected_error", pa.string()),
        *_fields("prompt_tokens chosen_tokens rejected_tokens", pa.int32()),
        *_fields("common_prefix", pa.int32(), nullable=False),
        *_fields("length_ratio", pa.float64(), nullable=False),
        *_weight_fields("chosen_"),
        *_weight_fields("rejected_"),
    ]
)
SCHEMAS = {SFT_FILE: TRACE_SCHEMA, PAIRS_FILE: PAIRS_SCHEMA, NEGATIVES_FILE: TRACE_SCHEMA}

_GROUP_ROWS = 4096
_GROUP_CHARACTERS = 16 * 2**20  # a row group is held in memory, here and by whoever reads it
_TEXTS = ("problem", "completion", "chosen", "rejected")


@final
class _Table:
    """One Parquet file, written a row group at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        # Spelled out, so that other defaults of another pyarrow change nothing.
        self._writer = ParquetWriter(
            path, schema, version="2.6", compression="zstd", compression_level=3, data_page_version="1.0"
        )
        self._rows: list[dict[str, Any]] = []
        self._characters = 0

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        self._characters += sum(len(row[name]) for name in _TEXTS if name in row)
        if len(self._rows) >= _GROUP_ROWS or self._characters >= _GROUP_CHARACTERS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows, self._characters = [], 0


@final
class CuratedWriter(ExitStack):
    """Writes the files of a folder; a context manager.

    Args:
        folder: where to; it exists.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        tables = [_Table(folder / name, schema) for name, schema in SCHEMAS.items()]
        self._tables = [self.enter_context(closing(table)) for table in tables]  # each, also after one that fails

    def add(self, *rows: Iterable[dict[str, Any]]) -> None:
        """Write what a row of the source gave to each file, in the order of `SCHEMAS`."""
        for table, of_table in zip(self._tables, rows, strict=True):
            for row in of_table:
                table.add(row)


@final
@dataclass(frozen=True)
class CuratedSource:
    """Trains on what a curation wrote, in the order of its files.

    Attributes:
        path: the results folder, with sft.parquet, pairs.parquet and negatives.parquet.
        num_heldout: problems with an answer to keep for evaluation.
        seed: seed of the choice of held-out problems.
    """

    path: str
    num_heldout: int = 0
    seed: int = 0

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
        tables = [_read(file, schema.names) for file, schema in zip(self._files(), SCHEMAS.values(), strict=True)]
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
        files = [Path(self.path).expanduser() / name for name in SCHEMAS]
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


def _read(file: Path, columns: list[str]) -> list[dict[str, Any]]:
    try:
        return [values for _, values in read_parquet(file, columns)]
    except UserError as error:
        raise UserError(f"{error}; curate again") from error
