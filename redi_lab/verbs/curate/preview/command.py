"""Look at curated data before training on it: `python -m redi_lab curate preview path=FOLDER [n=3] [tokenizer=PATH]`.

Reads the results folder of `curate` and shows pairs as training sees them (loss mask, the place where chosen and
rejected part, weights of tokens, verdicts) in FOLDER/preview/index.html, under a plot of the lengths of all traces.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redi_lab.config.schema.words import PreviewWords, read_words
from redi_lab.data.curated import PAIRS_FILE, SFT_FILE
from redi_lab.data.token_weights import Rule
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import UNWEIGHTED
from redi_lab.errors import UserError, in_short
from redi_lab.files import write_text
from redi_lab.verbs.curate.preview.marks import mark_pair
from redi_lab.verbs.curate.preview.page import Lengths, facts, preview_page


def run_preview(arguments: Sequence[str]) -> Path:
    """The verb: `curate preview path=FOLDER [n=3] [tokenizer=FOLDER_OR_HUB_ID] [token_weights=RULE]`.

    Without `tokenizer=` the one that curated the folder is used, if there was one. `token_weights` has the values of
    the setting `data.token_weights`.

    Returns:
        The page.

    Raises:
        UserError: an argument or the folder is not what it should be.
    """
    names, words, overrides = read_words(PreviewWords, arguments)
    if names or overrides or not words.path:
        raise UserError(
            "curate preview takes path=FOLDER (the results folder of `curate`) [n=NUMBER tokenizer=PATH"
            " token_weights=RULE]"
        )
    folder = Path(words.path).expanduser().absolute()
    _check_folder(folder)
    name = words.tokenizer or _read_json(folder / "manifest.json").get("tokenizer")
    tokenizer = _load_tokenizer(str(name)) if name else None
    destination = folder / "preview" / "index.html"
    page = preview(folder, destination, num_pairs=words.n, tokenizer=tokenizer, rule=words.token_weights)
    print(f"Page:       {page}")
    print(f"Results:    {folder}")
    return page


def preview(folder: Path, destination: Path, *, num_pairs: int, tokenizer: Any | None, rule: Rule = "none") -> Path:
    """Show what a folder of `curate` holds: numbers on the screen, and a page with the pairs.

    Args:
        folder: holds sft.parquet and pairs.parquet; report.json and manifest.json are used where they are there.
        destination: HTML file to write; the plot lies beside it as a PNG file.
        num_pairs: how many pairs to show, evenly spread over the file.
        tokenizer: a transformers tokenizer, or None to show words.
        rule: how tokens are weighed, shown by their colour.

    Returns:
        `destination`.

    Raises:
        UserError: the folder misses its files, they cannot be read, or the rule cannot weigh a pair.
    """
    report, manifest = _read_json(folder / "report.json"), _read_json(folder / "manifest.json")
    encoder = None
    if tokenizer is not None:
        decided = manifest.get("decided_by") or {}
        template, prefix = decided.get("prompt_template") or "{problem}", decided.get("thinking_prefix") or ""
        encoder = TraceEncoder(tokenizer, template, prefix)
    picked = _pick(folder / PAIRS_FILE, num_pairs, needs_weights=rule != "none")
    pairs = [(row, mark_pair(row, encoder, rule=rule)) for row in picked]
    lengths = _lengths(folder)
    source = (manifest.get("input") or {}).get("source")
    subtitle = f"{folder}" + (f", from {source}" if source else "")
    page = preview_page(f"Preview of {folder.name}", subtitle, lengths, report, pairs, destination.parent)
    write_text(destination, page)
    for line in facts(lengths, report):
        print(line)
    return destination


def _check_folder(folder: Path) -> None:
    for name in (SFT_FILE, PAIRS_FILE):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: no {name} there; give the results folder of `python -m redi_lab curate`")


def _load_tokenizer(name: str) -> Any:
    from redi_lab.backbone.hub import load_tokenizer  # imports transformers, which takes seconds

    tokenizer = load_tokenizer(name, key="tokenizer")
    tokenizer.model_max_length = int(1e30)  # long traces are meant, and nothing is truncated: no warning
    return tokenizer


def _read_json(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; curate again") from error
    return content if isinstance(content, dict) else {}


@contextmanager
def _parquet(path: Path) -> Iterator[Any]:
    import pyarrow
    from pyarrow.dataset import dataset

    try:
        yield dataset(path, format="parquet")
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: not a readable Parquet file: {in_short(error)}; curate again") from error


def _pick(path: Path, number: int, *, needs_weights: bool) -> list[dict[str, Any]]:
    """Rows evenly spread over a file."""
    with _parquet(path) as data:
        columns = ["problem", "chosen", "rejected"]
        if needs_weights:
            columns += [name for side in columns[1:] for name in UNWEIGHTED.as_columns(f"{side}_")]
        needed = set(columns) - set(data.schema.names)
        if needed:
            raise UserError(
                f"{path}: without the columns {', '.join(sorted(needed))}: not written by `curate`; curate again"
            )
        total = data.count_rows()
        number = min(number, total)
        places = [(2 * place + 1) * total // (2 * number) for place in range(number)]
        return list(data.take(places).to_pylist()) if places else []


def _lengths(folder: Path) -> Lengths:
    """Lengths of all right and wrong traces, in tokens if every row has them."""
    import pyarrow.compute as pc

    tables = []
    for name, text in ((SFT_FILE, "completion"), (PAIRS_FILE, "rejected")):
        with _parquet(folder / name) as data:  # the texts themselves are not kept
            columns = {"tokens": pc.field(f"{text}_tokens"), "characters": pc.utf8_length(pc.field(text))}
            tables.append(data.to_table(columns))
    unit = "characters" if any(table["tokens"].null_count for table in tables) else "tokens"
    return Lengths(unit, *(table[unit].to_pylist() for table in tables))
