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
from collections.abc import Iterator
from pathlib import Path
from typing import Any, final

import pyarrow as pa
from pyarrow.parquet import ParquetFile

from redi_lab.data.selection import LEAKS_HELD_OUT, hold_out, text_key
from redi_lab.data.traces import Demonstration, Negative, Pair, Problem, SelectionCounts, TraceCorpus
from redi_lab.errors import UserError, in_short

SFT_FILE = "sft.parquet"
PAIRS_FILE = "pairs.parquet"
NEGATIVES_FILE = "negatives.parquet"
NO_PAIR = "no further pair of this problem"
NO_DEMONSTRATION = "no further demonstration of this problem"

_SHARED_FIRST = [pa.field("id", pa.string(), nullable=False), pa.field("problem", pa.string(), nullable=False)]
_PROVENANCE = [
    pa.field("answer", pa.string()),
    pa.field("source", pa.string()),
    pa.field("source_row", pa.int64(), nullable=False),
]
TRACE_SCHEMA = pa.schema(  # of right traces as of wrong ones
    [
        *_SHARED_FIRST,
        pa.field("completion", pa.string(), nullable=False),
        *_PROVENANCE,
        pa.field("generation_index", pa.int32(), nullable=False),
        pa.field("verdicts", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("completion_tokens", pa.int32()),
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
        pa.field("prompt_tokens", pa.int32()),
        pa.field("chosen_tokens", pa.int32()),
        pa.field("rejected_tokens", pa.int32()),
        pa.field("common_prefix", pa.int32(), nullable=False),
        pa.field("length_ratio", pa.float64(), nullable=False),
    ]
)


@final
class CuratedSource:
    """Trains on what a curation wrote, in the order of its files.

    Args:
        path: the results folder, with sft.parquet, pairs.parquet and negatives.parquet.
        num_heldout: problems with an answer to keep for evaluation.
        seed: of that choice.
    """

    def __init__(self, path: str, num_heldout: int = 0, seed: int = 0) -> None:
        self.path = path
        self.num_heldout = num_heldout
        self.seed = seed

    def digest(self) -> str:
        """The sha256 of the files and of the options.

        Raises:
            UserError: the folder lacks one of them.
        """
        hashes = [file_hash(self._file(name)) for name in (SFT_FILE, PAIRS_FILE, NEGATIVES_FILE)]
        content = [type(self).__name__, *hashes, self.num_heldout, self.seed]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def load(self) -> TraceCorpus:
        """Read the files and hold out problems.

        Raises:
            UserError: a file is missing or has other columns, too few problems have an answer, or nothing is left to
                train on.
        """
        demonstrations = list(_read(self._file(SFT_FILE), TRACE_SCHEMA))
        pairs = list(_read(self._file(PAIRS_FILE), PAIRS_SCHEMA))
        negatives = list(_read(self._file(NEGATIVES_FILE), TRACE_SCHEMA))
        everything = demonstrations + pairs + negatives
        held_out = hold_out(
            (Problem(row["id"], row["problem"], row["answer"], ()) for row in everything),
            self.num_heldout,
            self.seed,
            source=self.path,
        )
        texts = {text_key(item.problem) for item in held_out}
        kept = {row["problem"]: text_key(row["problem"]) not in texts for row in everything}
        kept_demonstrations, kept_pairs, kept_negatives = (
            [row for row in rows if kept[row["problem"]]] for rows in (demonstrations, pairs, negatives)
        )
        if not kept_demonstrations:
            raise UserError(f"{self.path}: no demonstration is left to train on ({len(held_out)} problems held out)")
        return TraceCorpus(
            self.path,
            self.digest(),
            tuple(Demonstration(row["id"], row["problem"], row["completion"]) for row in kept_demonstrations),
            tuple(Pair(row["id"], row["problem"], row["chosen"], row["rejected"]) for row in kept_pairs),
            held_out,
            _count(
                _num_rows(demonstrations, pairs, negatives),
                _num_rows(kept_demonstrations, kept_pairs, kept_negatives),
                len(kept_demonstrations),
                len(kept_pairs),
                len(held_out),
            ),
            tuple(Negative(row["id"], row["problem"], row["completion"]) for row in kept_negatives),
        )

    def _file(self, name: str) -> Path:
        file = Path(self.path).expanduser() / name
        if not file.is_file():
            raise UserError(f"data.path={self.path}: no {name} there; give the results folder of `redi_lab curate`")
        return file


def file_hash(file: Path) -> str:
    """The sha256 of a file's bytes."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _count(read: int, used: int, demonstrations: int, pairs: int, num_heldout: int) -> SelectionCounts:
    """The account of rows as `_num_rows` counts them."""
    leaks = read - used - num_heldout
    counts = SelectionCounts(
        rows_read=read,
        dropped={LEAKS_HELD_OUT: leaks} if leaks else {},
        demonstrations=demonstrations,
        pairs=pairs,
        without_pair={NO_PAIR: used - pairs} if used > pairs else {},
        held_out=num_heldout,
        without_demonstration={NO_DEMONSTRATION: used - demonstrations} if used > demonstrations else {},
    )
    counts.check()
    return counts


def _num_rows(*tables: list[dict[str, Any]]) -> int:
    """A problem with two demonstrations and three pairs counts as three rows."""
    most: Counter[int] = Counter()
    for table in tables:
        most |= Counter(record["source_row"] for record in table)
    return most.total()


def _read(file: Path, schema: pa.Schema) -> Iterator[dict[str, Any]]:
    try:
        with ParquetFile(file) as parquet:
            missing = [name for name in schema.names if parquet.schema_arrow.names.count(name) != 1]
            if missing:
                raise UserError(f"{file}: without the columns {', '.join(missing)}: not of `curate`; curate again")
            for batch in parquet.iter_batches(batch_size=256):
                yield from batch.to_pylist()
    except UserError:
        raise
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        raise UserError(f"{file}: not a readable Parquet file: {in_short(error)}; curate again") from error
