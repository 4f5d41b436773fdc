"""Look at curated data before training on it: `python -m redi_lab curate preview path=FOLDER [n=3] [tokenizer=PATH]`.

Reads the results folder of `curate` and shows pairs as training sees them (loss mask, the place where chosen and
rejected part, weights of tokens, verdicts) in FOLDER/preview/index.html, under a plot of the lengths of all traces. The
page needs neither network nor scripts, and all text of the data is escaped.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from redi_lab.config.schema.words import PreviewWords, read_words
from redi_lab.data.curated import PAIRS_FILE, SFT_FILE
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import UNWEIGHTED
from redi_lab.errors import UserError, in_short
from redi_lab.figures.page import embedded_image, render_page
from redi_lab.figures.style import BAD, GOOD, dress, new_figure, save_figure
from redi_lab.files import write_text
from redi_lab.verbs.curate.marks import PairView, Piece, mark_pair, visible

_LEGEND = (
    '<p class="legend text"><span class="prompt">prompt: no loss</span>'
    '<span class="chosen"><i>chosen:</i><i> its</i><i> log-prob</i><i> rises</i></span>'
    '<span class="rejected"><i>rejected:</i><i> its</i><i> log-prob</i><i> falls</i></span>'
    '<span class="chosen"><i class="part">here</i> both part</span>'
    '<span class="chosen"><b>end of turn</b> the last token in the loss</span>'
)
_BOXES = {
    "tokens": "Each box is a token; hover for the size of a larger one.</p>",
    "words": "Each box is a word (give a tokenizer to see tokens).</p>",
}


def run_preview(arguments: Sequence[str]) -> Path:
    """The verb: `curate preview path=FOLDER [n=3] [tokenizer=FOLDER_OR_HUB_ID] [token_weights=RULE]`.

    Without `tokenizer=` the one that curated the folder is used, if there was one. `token_weights` has the values of
    the setting `data.token_weights`.

    Returns:
        The page; the plot lies beside it as a PNG file.

    Raises:
        UserError: an argument or the folder is not what it should be, or the rule cannot weigh a pair.
    """
    names, words, overrides = read_words(PreviewWords, arguments)
    if names or overrides or not words.path:
        raise UserError(
            "curate preview takes path=FOLDER (the results folder of `curate`) [n=NUMBER tokenizer=PATH"
            " token_weights=RULE]"
        )
    folder, rule = Path(words.path).expanduser().absolute(), words.token_weights
    for file in (SFT_FILE, PAIRS_FILE):
        if not (folder / file).is_file():
            raise UserError(f"{folder}: no {file} there; give the results folder of `python -m redi_lab curate`")
    manifest = _read_manifest(folder / "manifest.json")
    name = words.tokenizer or manifest.get("tokenizer")
    encoder = None if name is None else _make_encoder(str(name), manifest.get("decided_by") or {})
    picked = _pick(folder / PAIRS_FILE, words.n, needs_weights=rule != "none")
    pairs = [(row, mark_pair(row, encoder, rule=rule)) for row in picked]
    page = folder / "preview" / "index.html"
    plot = _plot_lengths(folder, page.with_name("lengths.png"))
    write_text(page, _page(folder, (manifest.get("input") or {}).get("source"), plot, pairs))
    print(f"Page:       {page}")
    print(f"Results:    {folder}")
    return page


def _read_manifest(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}; curate again") from error
    return content if isinstance(content, dict) else {}


def _make_encoder(name: str, decided: Mapping[str, Any]) -> TraceEncoder:
    """What writes prompts as the curation did."""
    from redi_lab.backbone.hub import load_tokenizer  # imports transformers, which takes seconds

    tokenizer = load_tokenizer(name, key="tokenizer")
    tokenizer.model_max_length = int(1e30)  # long traces are meant, and nothing is truncated: no warning
    return TraceEncoder(tokenizer, decided.get("prompt_template") or "{problem}", decided.get("thinking_prefix") or "")


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


def _lengths(folder: Path) -> tuple[str, dict[str, list[int]]]:
    """Lengths of all right and wrong traces, in tokens if every row has them; the unit comes first."""
    import pyarrow.compute as pc

    tables = {}
    for name, file, text in (("right", SFT_FILE, "completion"), ("wrong", PAIRS_FILE, "rejected")):
        with _parquet(folder / file) as data:  # the texts themselves are not kept
            columns = {"tokens": pc.field(f"{text}_tokens"), "characters": pc.utf8_length(pc.field(text))}
            tables[name] = data.to_table(columns)
    unit = "characters" if any(table["tokens"].null_count for table in tables.values()) else "tokens"
    return unit, {name: table[unit].to_pylist() for name, table in tables.items()}


def _plot_lengths(folder: Path, destination: Path) -> Path:
    """Histograms of the lengths of right and of wrong traces on a logarithmic axis, with their medians."""
    figure, ax = new_figure(8.5, 3.5)
    unit, lengths = _lengths(folder)
    everything = np.maximum([*lengths["right"], *lengths["wrong"]] or [1, 10], 1)
    bins = np.geomspace(everything.min() * 0.95, everything.max() * 1.05 + 1, 41)
    for (name, values), colour in zip(lengths.items(), (GOOD, BAD), strict=True):
        if values:
            median, shares = float(np.median(values)), np.full(len(values), 100 / len(values))
            label = f"{name}: {len(values):,}, median {median:,.0f}"
            ax.hist(np.maximum(values, 1), bins=bins, weights=shares, histtype="step", color=colour, label=label)
            ax.axvline(max(median, 1), color=colour, linestyle="--")
            ax.legend(frameon=False)
    ax.set_xscale("log")
    ax.set_xlabel(f"{unit} (logarithmic; dashed lines: medians)")
    ax.set_ylabel("% of traces")
    dress(ax, "Lengths of right and wrong traces", grid="y")
    return save_figure(figure, destination)


def _page(folder: Path, source: str | None, plot: Path, pairs: Sequence[tuple[Mapping[str, Any], PairView]]) -> str:
    """The page of rows of pairs.parquet and what is marked in them."""
    title = f"Preview of {folder.name}"
    pieces = [piece for _, view in pairs for piece in (*view.chosen, *view.rejected)]
    weights = [piece.weight for piece in pieces if piece.kind != "gap"]
    largest = (max(map(abs, weights)) or 1.0) if any(weight != 1.0 for weight in weights) else None
    cards = "".join(_card(number, *pair, largest) for number, pair in enumerate(pairs, start=1))
    body = f"""<h1>{_text(title)}</h1>
<p class="sub">{_text(f"{folder}, from {source}" if source else folder)}</p>
{embedded_image("Lengths of right and wrong traces", plot)}
<h2>What training sees</h2>
{_LEGEND + _scale(largest) + _BOXES[pairs[0][1].unit] if pairs else ""}
{cards or "<p>There is no pair in this folder.</p>"}"""
    return render_page(visible(title), body)


def _text(text: object) -> str:
    return html.escape(visible(str(text)))


def _scale(largest: float | None) -> str:
    """What the colours of weights mean; nothing where all are 1."""
    if largest is None:
        return ""
    shown = ""
    for push in (-largest, -largest / 2, 0.0, largest / 2, largest):
        words = f"{'rises' if push > 0 else 'falls'} × {abs(push):.3g}" if push else "no gradient"
        name, style = _shade(push, largest)
        shown += f'<span><i class="{name}"{style}>{words}</i></span>'
    return shown


def _shade(push: float, largest: float) -> tuple[str, str]:
    """Class and style attribute of text whose log-prob the loss raises (`push` above 0) or lowers."""
    name = "up" if push > 0 else "down" if push < 0 else "off"
    return name, f' style="--w:{abs(push) / largest:.3f}"'


def _card(number: int, row: Mapping[str, Any], view: PairView, largest: float | None) -> str:
    weights = [row[f"{side}_weight"] for side in ("chosen", "rejected") if row.get(f"{side}_weight") is not None]
    about = {
        "row": row.get("source_row"),
        "source": row.get("source"),
        "answer": row.get("answer"),
        "common prefix": f"{view.common_prefix:,} {view.unit}",
        "rejected / chosen": f"{_length(view.rejected) / _length(view.chosen):.2f}",
        "weight": f"{sum(weights) / 2:.4g}" if len(weights) == 2 else None,
        "pass rate": None if row.get("pass_rate") is None else f"{row['pass_rate']:.2f}",
    }
    return f"""<article>
<h3><span>{number}</span> {_text(row.get("id", ""))}</h3>
<p>{_badges(f"{name} {value}" for name, value in about.items() if value is not None)}</p>
<div class="box"><h4>Prompt {_badges([f"{view.prompt_length:,} {view.unit}, no loss"])}</h4>
<div class="text"><span class="prompt">{_with_line_ends(view.prompt)}</span></div></div>
<div class="pair">{_side("chosen", view.chosen, row, view.unit, largest)}
{_side("rejected", view.rejected, row, view.unit, largest)}</div>
</article>
"""


def _side(name: str, pieces: Sequence[Piece], row: Mapping[str, Any], unit: str, largest: float | None) -> str:
    sign = 1.0 if name == "chosen" else -1.0
    number, verdicts = row.get(f"{name}_index"), row.get(f"{name}_verdicts")
    about = [f"{_length(pieces):,} {unit}", number is not None and f"generation {number}", verdicts]
    about += [row.get(f"{name}_error")]
    return (
        f'<div class="box {name}"><h4>{name.capitalize()} {_badges(filter(None, about))}</h4>'
        f'<div class="text">{"".join(_piece(piece, unit, sign, largest) for piece in pieces)}</div></div>'
    )


def _length(pieces: Sequence[Piece]) -> int:
    """|y|, with the end of turn."""
    return sum(piece.size for piece in pieces)


def _badges(texts: Iterable[object]) -> str:
    return " ".join(f'<span class="badge">{_text(text)}</span>' for text in texts)


def _with_line_ends(text: str) -> str:
    return _text(text).replace("\n", "<s>↵</s>\n")


def _piece(piece: Piece, unit: str, sign: float, largest: float | None) -> str:
    if piece.kind == "gap":
        return f'<span class="gap">⋯ {piece.size:,} {unit} not shown ⋯</span>'
    tag, names, style = "b" if piece.kind == "end" else "i", ["part"] * piece.is_parting, ""
    notes = [] if piece.size == 1 else [f"{piece.size} {unit}"]
    if largest is not None:
        name, style = _shade(sign * piece.weight, largest)
        names, notes = [*names, name], [*notes, f"weight {piece.weight:.4g}"]
    mark = f' class="{" ".join(names)}"' if names else ""
    note = f' title="{", ".join(notes)}"' if notes else ""
    return f"<{tag}{mark}{note}{style}>{_with_line_ends(piece.text)}</{tag}>"
