"""Look at curated data before training on it: `python -m redi_lab curate preview path=FOLDER [n=3] [tokenizer=PATH]`.

Reads the results folder of `curate` and shows pairs as training sees them (loss mask, the place where chosen and
rejected part, verdicts, lengths) on the screen and in FOLDER/preview/index.html, with plots of lengths, drops and
sources beside it.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

from rich.console import Console

from redi_lab.config.schema.words import PreviewWords, read_words
from redi_lab.data.curated import PAIRS_FILE, SFT_FILE
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.errors import UserError, in_short
from redi_lab.files import write_text
from redi_lab.verbs.curate.preview.html import Fact, preview_page
from redi_lab.verbs.curate.preview.marks import Window, mark_pair
from redi_lab.verbs.curate.preview.plots import drops_figure, lengths_figure, sources_figure
from redi_lab.verbs.curate.preview.screen import show

PAGE_WINDOW = Window(head=160, around=120, tail=60)
SCREEN_WINDOW = Window(head=40, around=40, tail=20)

_NO_SOURCE = "(source not stated)"
_BATCH_ROWS = 64


@final
@dataclass(slots=True)
class Contents:
    """What a pass over both files gives. Lengths are in tokens where every row has them, else in characters."""

    unit: str = "tokens"
    right: array[int] = field(default_factory=lambda: array("q"))
    wrong: array[int] = field(default_factory=lambda: array("q"))
    demonstrations: Counter[str] = field(default_factory=Counter)
    pairs: Counter[str] = field(default_factory=Counter)


def run_preview(arguments: Sequence[str]) -> Path:
    """The verb: `curate preview path=FOLDER [n=3] [tokenizer=FOLDER_OR_HUB_ID]`.

    Without `tokenizer=` the one that curated the folder is used, if there was one.

    Returns:
        The page.

    Raises:
        UserError: an argument or the folder is not what it should be.
    """
    names, words, overrides = read_words(PreviewWords, arguments)
    if names or overrides or not words.path:
        raise UserError("curate preview takes path=FOLDER (the results folder of `curate`) [n=NUMBER tokenizer=PATH]")
    folder = Path(words.path).expanduser().absolute()
    _check_folder(folder)
    name = words.tokenizer or _read_json(folder / "manifest.json").get("tokenizer")
    page = preview(folder, folder / "preview" / "index.html", num_pairs=words.n, tokenizer=_load_tokenizer(name))
    print(f"Page:       {page}")
    print(f"Results:    {folder}")
    return page


def preview(
    folder: Path, destination: Path, *, num_pairs: int, tokenizer: Any | None, console: Console | None = None
) -> Path:
    """Show what a folder of `curate` holds.

    Args:
        folder: holds sft.parquet and pairs.parquet; report.json and manifest.json are used where they are there.
        destination: HTML file to write; the plots lie beside it as PNG files.
        num_pairs: how many pairs to show, evenly spread over the file.
        tokenizer: a transformers tokenizer, or None to show words.
        console: where to print; None for the screen.

    Returns:
        `destination`.

    Raises:
        UserError: the folder lacks its files, or they cannot be read.
    """
    _check_folder(folder)
    report, manifest = _read_json(folder / "report.json"), _read_json(folder / "manifest.json")
    encoder = _encoder(tokenizer, manifest)
    rows = list(_pick(folder / PAIRS_FILE, num_pairs))
    contents = _contents(folder)
    destination.parent.mkdir(parents=True, exist_ok=True)
    figures = _figures(contents, report, destination.parent)
    source = _mapping(manifest, "input").get("source")
    subtitle = f"{folder}" + (f", from {source}" if source else "")
    facts = _facts(contents, report)
    views = [mark_pair(row, encoder, PAGE_WINDOW) for row in rows]
    write_text(destination, preview_page(f"Preview of {folder.name}", subtitle, facts, figures, views))
    show(console or Console(), subtitle, facts, [mark_pair(row, encoder, SCREEN_WINDOW) for row in rows])
    return destination


def _check_folder(folder: Path) -> None:
    for name in (SFT_FILE, PAIRS_FILE):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name} there; give the results folder of `python -m redi_lab curate`")


def _load_tokenizer(name: str | None) -> Any | None:
    if not name:
        return None
    from redi_lab.backbone.hub import load_tokenizer  # imports transformers, which takes seconds

    tokenizer = load_tokenizer(name, key="tokenizer")
    tokenizer.model_max_length = int(1e30)  # long traces are meant, and nothing is truncated: no warning
    return tokenizer


def _encoder(tokenizer: Any | None, manifest: Mapping[str, Any]) -> TraceEncoder | None:
    if tokenizer is None:
        return None
    decided = _mapping(manifest, "decided_by")
    template, prefix = decided.get("prompt_template"), decided.get("thinking_prefix")
    return TraceEncoder(tokenizer, str(template or "{problem}"), str(prefix or ""))


def _read_json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; curate again") from error
    return content if isinstance(content, dict) else {}


def _mapping(content: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """A nested dictionary; empty where there is none."""
    for key in keys:
        found = content.get(key)
        content = found if isinstance(found, Mapping) else {}
    return content


def _counts(content: Mapping[str, Any], *keys: str) -> dict[str, int]:
    return {name: value for name, value in _mapping(content, *keys).items() if isinstance(value, int) and value}


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow.parquet import ParquetFile

    try:
        with ParquetFile(path) as file:
            yield file
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a readable Parquet file: {in_short(error)}; curate again") from error


def _pick(path: Path, number: int) -> Iterator[dict[str, Any]]:
    """Rows evenly spread over a file; only the row groups that hold them are read."""
    with _parquet(path) as file:
        needed = {"problem", "chosen", "rejected"} - set(file.schema_arrow.names)
        if needed:
            raise UserError(
                f"{path}: without the columns {', '.join(sorted(needed))}: not written by `curate`; curate again"
            )
        total = int(file.metadata.num_rows)
        number = min(number, total)
        wanted = [(2 * place + 1) * total // (2 * number) for place in range(number)]
        start = 0
        for group in range(file.num_row_groups):
            size = file.metadata.row_group(group).num_rows
            places = [place - start for place in wanted if start <= place < start + size]
            if places:
                yield from file.read_row_group(group).take(places).to_pylist()
            start += size


def _contents(folder: Path) -> Contents:
    """Lengths and sources of all rows; of the texts, a batch at a time is in memory."""
    for unit in ("tokens", "characters"):
        contents = Contents(unit)
        right = _read_into(folder / SFT_FILE, "completion", contents.right, contents.demonstrations, unit)
        wrong = _read_into(folder / PAIRS_FILE, "rejected", contents.wrong, contents.pairs, unit)
        if right and wrong:
            return contents
    raise UserError(f"{folder}: {SFT_FILE} or {PAIRS_FILE} lacks its texts: not written by `curate`; curate again")


def _read_into(path: Path, text: str, lengths: array[int], sources: Counter[str], unit: str) -> bool:
    """Add the file's lengths and sources; False where a length is not there in this unit."""
    import pyarrow.compute as pc

    column = f"{text}_tokens" if unit == "tokens" else text
    with _parquet(path) as file:
        there = [name for name in (column, "source") if name in file.schema_arrow.names]
        if column not in there:
            return False
        for batch in file.iter_batches(batch_size=_BATCH_ROWS, columns=there):
            values = batch.column(column) if unit == "tokens" else pc.utf8_length(batch.column(column))
            if values.null_count:
                return False
            lengths.extend(values.to_pylist())
            named = batch.column("source").to_pylist() if "source" in there else [None] * batch.num_rows
            sources.update(name or _NO_SOURCE for name in named)
    return True


def _figures(contents: Contents, report: Mapping[str, Any], folder: Path) -> dict[str, Path]:
    groups = {
        "Rows dropped": _counts(report, "rows", "dropped"),
        "Rows in use without a pair": _counts(report, "rows", "used_without_pair"),
        "Generations not used": _counts(report, "generations", "not_used"),
    }
    totals = {
        "Rows dropped": _mapping(report, "rows").get("read", 0),
        "Rows in use without a pair": _mapping(report, "rows").get("used", 0),
        "Generations not used": _mapping(report, "generations").get("read", 0),
    }
    return {
        "Lengths of right and wrong traces": lengths_figure(
            contents.right, contents.wrong, contents.unit, folder / "lengths.png"
        ),
        "Why rows and generations were not used": drops_figure(groups, totals, folder / "drops.png"),
        "Sources": sources_figure(contents.demonstrations, contents.pairs, folder / "sources.png"),
    }


def _facts(contents: Contents, report: Mapping[str, Any]) -> list[Fact]:
    facts = []
    for name in ("rows", "generations"):
        numbers = _mapping(report, name)
        read, used = numbers.get("read"), numbers.get("used")
        if read and used is not None:
            facts.append(Fact(f"{name} read", f"{read:,}", f"{used:,} used ({100 * used / read:.1f} %)"))
    facts.append(Fact("demonstrations", f"{contents.demonstrations.total():,}", "right traces for SFT"))
    facts.append(Fact("pairs", f"{contents.pairs.total():,}", "right against wrong"))
    verdicts = _mapping(report, "verdicts")
    unknown = sum(_counts(verdicts, "unknown").values())
    if verdicts:
        judged = f"{verdicts.get('right', 0):,} / {verdicts.get('wrong', 0):,}"
        facts.append(Fact("judged right / wrong", judged, f"{unknown:,} unknown"))
    poisoned = sum(_counts(verdicts, "unknown_used_as_negative").values())
    if poisoned:
        facts.append(Fact("unknown used as wrong", f"{poisoned:,}", "rejected, though nobody knows", is_warning=True))
    return facts
