"""Raw rows of trace data, wherever they lie: each row as a dictionary with the place it came from.

    table = open_rows("traces.jsonl", split="train", revision=None)
    for row in table.rows():
        row.where, row.values  # "traces.jsonl:1", {...}

A path may be a JSONL file (.jsonl, also .jsonl.gz), a Parquet file, a folder of such files, a folder written by
`datasets.save_to_disk`, or the id of a data set on the Hugging Face hub. Rows are read one after the other; only one
batch of them is in memory.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, final

from redi_lab.data.hub import find_on_hub
from redi_lab.data.jsonl import check_regular, read_jsonl
from redi_lab.errors import UserError, in_short
from redi_lab.files import file_digest
from redi_lab.hub import is_hub_id

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow.parquet import ParquetFile

OnProgress = Callable[[int, int | None], None]
"""Called with the rows done and the rows in all (None where that is not known before the end)."""

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_NOT_HUB_SUFFIXES = (".json", ".csv", ".txt", ".zip", ".gz")  # a hub id may hold dots, but hardly these
_SPLIT_NAMES = ("train", "validation", "valid", "val", "dev", "test", "eval")
_PARQUET_BATCH_ROWS = 64  # rows may hold eight traces of 50,000 characters
_PROGRESS_EVERY = 256

Values = dict[str, object]
_Placed = Iterable[tuple[str, Values]]


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One raw row and its place in words, such as `FILE:LINE`."""

    where: str
    values: Values

    def refusal(self, key: str, expected: str, value: object) -> UserError:
        """What to raise where `key` has a wrong value."""
        return UserError(f"{self.where}: key {key}: expected {expected}, got {show(value)}")


@final
@dataclass(frozen=True, slots=True)
class RowTable:
    """Rows that can be read as often as needed.

    Attributes:
        source: what the rows are called in reports and errors.
        digest: the identity of the content: sha256 of the bytes, or the commit of a hub data set.
        num_rows: the number of rows, None where it is not known before they are read.
        read: starts a pass over the places and values of all rows.
    """

    source: str
    digest: Callable[[], str]
    num_rows: Callable[[], int | None]
    read: Callable[[], _Placed]

    def rows(self, on_progress: OnProgress | None = None) -> Iterator[Row]:
        """All rows in order.

        Raises:
            UserError: there is no row, or the content is not what its name promises; the message names the place.
        """
        report = on_progress or (lambda *_: None)
        total = None if on_progress is None else self.num_rows()
        number = 0
        for number, (where, values) in enumerate(self.read(), start=1):
            yield Row(where, values)
            if number % _PROGRESS_EVERY == 0:
                report(number, total)
        if number == 0:
            raise UserError(f"{self.source}: there is no row in it; give rows")
        report(number, total)


def show(value: object) -> str:
    """A value as JSON writes it, cut to one short line."""
    shown = json.dumps(value, ensure_ascii=False, default=repr)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def open_rows(path: str, *, split: str, revision: str | None) -> RowTable:
    """Find out what `path` is and open it.

    Args:
        path: a file, a folder or a hub id; what exists locally is never looked up on the hub.
        split: of a hub data set, of a saved `DatasetDict`, or of a folder whose files are named after splits. A single
            file is read whatever its name is.
        revision: branch, tag or commit of a hub data set.

    Raises:
        UserError: nothing is there, or it is unclear which files to read.
    """
    local = Path(path).expanduser()
    if not local.exists():
        if not is_hub_id(path) or path.endswith(SUFFIXES + _NOT_HUB_SUFFIXES):
            raise UserError(f"data.path={path!r}: there is no such file or folder (looked for {local.absolute()})")
        found = find_on_hub(path, revision)
        load = cache(lambda: found.load(split))  # downloads when first read
        source = f"{path}@{found.commit}"
        return RowTable(source, lambda: found.commit, lambda: len(load()), lambda: _read_dataset(load(), source))
    if revision is not None:
        raise UserError(f"data.path={path!r} is local and has no revisions: drop revision={revision!r}")
    check_regular(local)
    if local.is_file():
        if _suffix(local) == "":
            raise UserError(f"{path}: cannot tell the format; the name must end in {', '.join(SUFFIXES)}")
        return _file_table(path, [local])
    if any((local / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
        dataset = _load_from_disk(local, split)
        files = sorted(file for file in local.rglob("*") if file.is_file())
        return RowTable(path, lambda: _digest_files(files), lambda: len(dataset), lambda: _read_dataset(dataset, path))
    return _file_table(path, _files_of_split(local, split))


def read_parquet(file: Path, columns: Sequence[str] = ()) -> Iterator[tuple[str, Values]]:
    """The rows of a Parquet file with their places; of the named columns, or of all.

    Raises:
        UserError: it cannot be read, has a column twice, or is missing a named one.
    """
    with _open_parquet(file) as parquet:
        missing = [name for name in columns if name not in parquet.schema_arrow.names]
        if missing:
            raise UserError(
                f"{file}: without the columns {', '.join(missing)}; it has {', '.join(parquet.schema_arrow.names)}"
            )
        batches = parquet.iter_batches(batch_size=_PARQUET_BATCH_ROWS, columns=list(columns) or None)
        yield from _numbered(str(file), itertools.chain.from_iterable(batch.to_pylist() for batch in batches))


def _file_table(source: str, files: list[Path]) -> RowTable:
    """The rows of JSONL or Parquet files, in the order of the files."""
    if _suffix(files[0]) == ".parquet":
        read: Callable[[Path], _Placed] = read_parquet
        num_rows: Callable[[], int | None] = lambda: sum(_open_parquet(file).metadata.num_rows for file in files)  # noqa: E731
    else:
        read, num_rows = read_jsonl, lambda: None
    return RowTable(
        source, lambda: _digest_files(files), num_rows, lambda: itertools.chain.from_iterable(map(read, files))
    )


def _suffix(path: Path) -> str:
    return next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")


def _digest_files(files: list[Path]) -> str:
    return hashlib.sha256("".join(map(file_digest, files)).encode()).hexdigest()


def _files_of_split(folder: Path, split: str) -> list[Path]:
    """The data files of a folder or, as in a copy of a hub repository, of its `data` folder."""
    for place in (folder, folder / "data"):
        files = sorted(file for file in place.glob("*") if _suffix(file) and file.is_file())
        if files:
            break
    else:
        raise UserError(f"{folder}: no {', '.join(SUFFIXES)} file in this folder, and no data set of save_to_disk")
    if len({_suffix(file) == ".parquet" for file in files}) > 1:
        raise UserError(f"{place}: JSONL and Parquet files side by side: give one of them with data.path=FILE")
    splits = [_split_of(file) for file in files]
    if not any(splits):
        return files
    if None in splits:
        stray = files[splits.index(None)].name
        raise UserError(f"{place}: some files are named after a split, {stray} is not: give one with data.path=FILE")
    chosen = [file for file, name in zip(files, splits, strict=True) if name == split]
    if not chosen:
        raise UserError(f"{place}: no file of split {split!r}; there is {', '.join(sorted(set(map(str, splits))))}")
    return chosen


def _split_of(file: Path) -> str | None:
    stem = file.name.removesuffix(_suffix(file))
    return next((name for name in _SPLIT_NAMES if stem == name or stem.startswith((f"{name}-", f"{name}_"))), None)


def _open_parquet(file: Path) -> ParquetFile:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        parquet = ParquetFile(file)
        names = parquet.schema_arrow.names
    except (OSError, pyarrow.ArrowException, UnicodeDecodeError) as error:  # the last: of a column's name
        raise UserError(f"{file}: not a readable Parquet file: {in_short(error)}; copy or write it again") from error
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"{file}: has the column {twice} twice; drop or rename one")
    return parquet


def _numbered(source: str, rows: Iterable[Values]) -> Iterator[tuple[str, Values]]:
    """The rows with their places; refuses what Arrow cannot read or Python cannot hold, such as the year 5,000,000."""
    import pyarrow

    number = 0
    try:
        for number, values in enumerate(rows, start=1):
            yield f"{source}: row {number}", values
    except (OSError, ValueError, OverflowError, pyarrow.ArrowException) as error:
        raise UserError(
            f"{source}: cannot be read after row {number}: {in_short(error)}; correct it or write it again"
        ) from error


def _load_from_disk(folder: Path, split: str) -> Dataset:
    import datasets
    import pyarrow

    try:
        loaded = datasets.load_from_disk(str(folder))
    except (OSError, ValueError, KeyError, pyarrow.ArrowException) as error:
        raise UserError(
            f"{folder}: not a readable data set of save_to_disk: {in_short(error)}; save it again"
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        if split not in loaded:
            raise UserError(f"{folder}: no split {split!r}; there is {', '.join(loaded)}")
        return loaded[split]
    saved = None if loaded.split is None else str(loaded.split).split("[")[0]  # "train[:10]" is a part of train
    if saved not in (None, split):
        raise UserError(f"{folder}: holds split {saved!r}, and split {split!r} was asked for")
    return loaded


def _read_dataset(dataset: Dataset, source: str) -> Iterator[tuple[str, Values]]:
    return _numbered(source, map(dict, dataset.with_format(None)))
