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
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, final

from redi_lab.data.hub import HubDataset, find_on_hub, looks_like_hub_id
from redi_lab.data.jsonl import check_regular, read_jsonl
from redi_lab.errors import UserError, in_short

if TYPE_CHECKING:
    from datasets import Dataset
    from pyarrow.parquet import ParquetFile

OnProgress = Callable[[int, int | None], None]
"""Called with the rows done and the rows in all (None where that is not known before the end)."""

_NOT_HUB_SUFFIXES = (".json", ".csv", ".txt", ".zip", ".gz")  # a hub id may hold dots, but hardly these
SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
_SPLIT_NAMES = ("train", "validation", "valid", "val", "dev", "test", "eval")
_PARQUET_BATCH_ROWS = 64  # rows may hold eight traces of 50,000 characters
_PROGRESS_EVERY = 256


@final
@dataclass(frozen=True, slots=True)
class Row:
    """One raw row and the words for its place, such as `FILE:LINE`."""

    where: str
    values: dict[str, object]


class RowTable(ABC):
    """Rows that can be read as often as needed."""

    source: str
    """What the rows are called in reports and errors."""

    @abstractmethod
    def digest(self) -> str:
        """The identity of the content: sha256 of the bytes, or the commit of a hub data set."""

    @abstractmethod
    def num_rows(self) -> int | None:
        """The number of rows where it is known without reading them."""

    @abstractmethod
    def rows(self) -> Iterator[Row]:
        """All rows in order.

        Raises:
            UserError: the content is not what its name promises; the message names the place.
        """


@final
class _FileTable(RowTable):
    """The rows of JSONL or Parquet files, in the order of the files."""

    def __init__(self, source: str, files: list[Path]) -> None:
        self.source = source
        self._files = files

    def digest(self) -> str:
        return _digest_files(self._files)

    def num_rows(self) -> int | None:
        if not all(_suffix(file) == ".parquet" for file in self._files):
            return None
        return sum(int(_open_parquet(file).metadata.num_rows) for file in self._files)

    def rows(self) -> Iterator[Row]:
        is_empty = True
        for file in self._files:
            for where, values in _read_parquet(file) if _suffix(file) == ".parquet" else read_jsonl(file):
                is_empty = False
                yield Row(where, values)
        if is_empty:
            raise UserError(f"{self.source}: there is no row in it; give rows")


@final
class _SavedTable(RowTable):
    """The rows of a folder that `datasets.save_to_disk` wrote."""

    def __init__(self, folder: Path, split: str) -> None:
        self.source = str(folder)
        self._folder = folder
        self._dataset = _load_from_disk(folder, split)

    def digest(self) -> str:
        return _digest_files(sorted(file for file in self._folder.rglob("*") if file.is_file()))

    def num_rows(self) -> int | None:
        return len(self._dataset)

    def rows(self) -> Iterator[Row]:
        return _read_dataset(self._dataset, self.source)


@final
class _HubTable(RowTable):
    """The rows of one split of a hub data set at a fixed commit; downloaded when first read."""

    def __init__(self, dataset: HubDataset, split: str) -> None:
        self.source = f"{dataset.path}@{dataset.commit}"
        self._hub_dataset = dataset
        self._split = split
        self._dataset: Dataset | None = None

    def digest(self) -> str:
        return self._hub_dataset.commit

    def num_rows(self) -> int | None:
        return len(self._loaded())

    def rows(self) -> Iterator[Row]:
        return _read_dataset(self._loaded(), self.source)

    def _loaded(self) -> Dataset:
        if self._dataset is None:
            self._dataset = self._hub_dataset.load(self._split)
        return self._dataset


@final
class _StreamTable(RowTable):
    """The rows of one split of a hub data set at a fixed commit, downloaded again in each pass."""

    def __init__(self, dataset: HubDataset, split: str) -> None:
        self.source = f"{dataset.path}@{dataset.commit}"
        self._hub_dataset = dataset
        self._split = split

    def digest(self) -> str:
        return self._hub_dataset.commit

    def num_rows(self) -> int | None:
        return None

    def rows(self) -> Iterator[Row]:
        number = 0
        for number, values in enumerate(self._hub_dataset.stream(self._split), start=1):
            yield Row(f"{self.source}: row {number}", dict(values))
        if number == 0:
            raise UserError(f"{self.source}: there is no row in it; give rows")


def open_rows(path: str, *, split: str, revision: str | None, streaming: bool = False) -> RowTable:
    """Find out what `path` is and open it.

    Args:
        path: a file, a folder or a hub id; what exists locally is never looked up on the hub.
        split: of a hub data set, of a saved `DatasetDict`, or of a folder whose files are named after splits. A single
            file is read whatever its name is.
        revision: branch, tag or commit of a hub data set.
        streaming: read a hub data set as it is downloaded, without keeping it on disk; local files never are loaded
            at once.

    Raises:
        UserError: nothing is there, or it cannot be told which files to read.
    """
    local = Path(path).expanduser()
    if not local.exists():
        if looks_like_hub_id(path) and not path.endswith(SUFFIXES + _NOT_HUB_SUFFIXES):
            found = find_on_hub(path, revision)
            return _StreamTable(found, split) if streaming else _HubTable(found, split)
        raise UserError(f"data.path={path!r}: there is no such file or folder (looked for {local.absolute()})")
    if revision is not None:
        raise UserError(f"data.path={path!r} is local and has no revisions: drop revision={revision!r}")
    check_regular(local)
    if local.is_file():
        if _suffix(local) == "":
            raise UserError(f"{path}: cannot tell the format; the name must end in {', '.join(SUFFIXES)}")
        return _FileTable(path, [local])
    if any((local / name).exists() for name in ("dataset_info.json", "dataset_dict.json")):
        return _SavedTable(local, split)
    return _FileTable(path, _files_of_split(local, split))


def tracked_rows(table: RowTable, on_progress: OnProgress | None, *, passes: int) -> Callable[[], Iterator[Row]]:
    """A function that starts a pass over the rows and reports progress over all `passes` together."""
    if on_progress is None:
        return table.rows
    report = on_progress
    done = itertools.count(1)

    def rows() -> Iterator[Row]:
        known = table.num_rows()
        total = None if known is None else known * passes
        reached = 0
        for row in table.rows():
            yield row
            reached = next(done)
            if reached % _PROGRESS_EVERY == 0:
                report(reached, total)
        report(reached, total)

    return rows


def _suffix(path: Path) -> str:
    return next((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), "")


def _digest_files(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


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


def _read_parquet(file: Path) -> Iterator[tuple[str, dict[str, object]]]:
    with _open_parquet(file) as parquet:
        batches = (batch.to_pylist() for batch in parquet.iter_batches(batch_size=_PARQUET_BATCH_ROWS))
        yield from _numbered(str(file), itertools.chain.from_iterable(batches))


def _numbered(source: str, rows: Iterable[dict[str, object]]) -> Iterator[tuple[str, dict[str, object]]]:
    """The rows with their places, as long as Arrow can read them and Python has the like: it has no year 5,000,000."""
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


def _read_dataset(dataset: Dataset, source: str) -> Iterator[Row]:
    if len(dataset) == 0:
        raise UserError(f"{source}: there is no row in it; give rows")
    for where, values in _numbered(source, map(dict, dataset.with_format(None))):
        yield Row(where, values)
