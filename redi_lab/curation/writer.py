"""Writes what curation chose: three Parquet tables, in row groups of bounded size."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

import pyarrow as pa
from pyarrow.parquet import ParquetWriter

from redi_lab.curation.curator import RowResult
from redi_lab.data.curated import NEGATIVES_FILE, PAIRS_FILE, PAIRS_SCHEMA, SFT_FILE, TRACE_SCHEMA

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
class CuratedWriter:
    """Writes the files of a folder; a context manager.

    Args:
        folder: where to; it exists.
    """

    def __init__(self, folder: Path) -> None:
        schemas = {SFT_FILE: TRACE_SCHEMA, PAIRS_FILE: PAIRS_SCHEMA, NEGATIVES_FILE: TRACE_SCHEMA}
        self._tables = [_Table(folder / name, schema) for name, schema in schemas.items()]

    def add(self, result: RowResult) -> None:
        """Write what a row gave."""
        for table, rows in zip(self._tables, (result.demonstrations, result.pairs, result.negatives), strict=True):
            for row in rows:
                table.add(row)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with ExitStack() as closing:  # each, also after one that fails
            for table in self._tables:
                closing.callback(table.close)
