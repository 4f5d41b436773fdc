"""The page of a data preview: one HTML file that needs neither network nor scripts. All text of the data is escaped."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from redi_lab.figures.page import embedded_image, render_page, table
from redi_lab.figures.style import BAD, GOOD, dress, new_figure, save_figure
from redi_lab.verbs.curate.preview.marks import Marked, PairView, Piece, visible

_SIGNS = {True: ("right", "✓"), False: ("wrong", "✗"), None: ("unknown", "?")}
_SIDES = ("chosen", "rejected")
_WIDTH = 8.5  # inches
_MOST_BINS = 40
_MOST_SOURCES = 30
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


@final
@dataclass(frozen=True)
class Contents:
    """Lengths of all right and wrong traces, in `unit`, and how many demonstrations and pairs each source gave."""

    unit: str
    right: Sequence[int]
    wrong: Sequence[int]
    demonstrations: Mapping[str, int]
    pairs: Mapping[str, int]


def preview_page(
    title: str,
    subtitle: str,
    contents: Contents,
    report: Mapping[str, Any],
    pairs: Sequence[tuple[Mapping[str, Any], PairView]],
    folder: Path,
) -> str:
    """The whole page.

    Args:
        title: of the page.
        subtitle: where the data is from.
        contents: of the files.
        report: report.json; may be empty.
        pairs: those to show, rows of pairs.parquet and what is marked in them.
        folder: for the plot, which is also embedded.
    """
    lengths = embedded_image("Lengths of right and wrong traces", _plot_lengths(contents, folder / "lengths.png"))
    drops = "".join(
        f"<h3>{group}</h3>{_shares(counts, total)}" for group, (counts, total) in drop_groups(report).items()
    )
    sources = {**contents.demonstrations, **contents.pairs}
    by_source = [
        (visible(name), f"{contents.demonstrations.get(name, 0):,}", f"{contents.pairs.get(name, 0):,}")
        for name in sorted(sources, key=lambda name: (-contents.demonstrations.get(name, 0), name))
    ]
    if len(by_source) > _MOST_SOURCES:
        others = f"({len(by_source) - _MOST_SOURCES:,} smaller sources)"
        by_source = [*by_source[:_MOST_SOURCES], (others, "", "")]
    pieces = [piece for _, view in pairs for side in (view.chosen, view.rejected) for piece in side.pieces]
    weights = [piece.weight for piece in pieces if piece.kind != "gap"]
    largest = (max(map(abs, weights)) or 1.0) if any(weight != 1.0 for weight in weights) else None
    cards = "".join(_card(number, *pair, largest) for number, pair in enumerate(pairs, start=1))
    body = f"""<h1>{_text(title)}</h1>
<p class="sub">{_text(subtitle)}</p>
{"".join(f"<p>{_text(fact)}</p>" for fact in facts(contents, report))}
<h2>What is in it</h2>
{lengths}
{table(("source", "demonstrations", "pairs"), by_source)}
{drops}
<h2>What training sees</h2>
{_LEGEND + _scale(largest) + _BOXES[pairs[0][1].unit] if pairs else ""}
{cards or "<p>There is no pair in this folder.</p>"}"""
    return render_page(visible(title), body)


def facts(contents: Contents, report: Mapping[str, Any]) -> Iterator[str]:
    """The numbers at the top, a line each."""
    for name in ("rows", "generations"):
        numbers = report.get(name) or {}
        if numbers.get("read"):
            used = numbers.get("used", 0)
            yield f"{name}: {numbers['read']:,} read, {used:,} used ({100 * used / numbers['read']:.1f} %)"
    yield f"demonstrations (right traces for SFT): {len(contents.right):,}; pairs: {len(contents.wrong):,}"
    verdicts = report.get("verdicts") or {}
    if verdicts:
        unknown = sum((verdicts.get("unknown") or {}).values())
        yield f"verdicts: {verdicts.get('right', 0):,} right, {verdicts.get('wrong', 0):,} wrong, {unknown:,} unknown"
    poisoned = sum((verdicts.get("unknown_used_as_negative") or {}).values())
    if poisoned:
        yield f"WARNING: {poisoned:,} unknown traces are used as wrong ones: rejected, though nobody knows"


def drop_groups(report: Mapping[str, Any]) -> dict[str, tuple[Mapping[str, int], int]]:
    """Reasons with their counts, and what all are parts of; only groups that have any."""
    rows, generations = report.get("rows") or {}, report.get("generations") or {}
    groups = {
        "Rows dropped": (rows.get("dropped") or {}, rows.get("read", 0)),
        "Rows in use without a pair": (rows.get("used_without_pair") or {}, rows.get("used", 0)),
        "Generations not used": (generations.get("not_used") or {}, generations.get("read", 0)),
    }
    return {title: (counts, total) for title, (counts, total) in groups.items() if sum(counts.values())}


def _shares(counts: Mapping[str, int], total: int) -> str:
    largest = sorted(counts.items(), key=lambda item: -item[1])
    rows = [(visible(name), f"{number:,}", f"{100 * number / (total or 1):.1f} %") for name, number in largest]
    return table(("reason", "number", "share"), rows)


def _text(text: str) -> str:
    return html.escape(visible(text))


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
    about = [(name.replace("source_row", "row"), row.get(name)) for name in ("source_row", "source", "answer")]
    about += [("common prefix", f"{view.common_prefix:,} {view.unit}")]
    about += [("rejected / chosen", f"{view.rejected.length / max(view.chosen.length, 1):.2f}")]
    weights = [row[key] for key in ("chosen_weight", "rejected_weight") if row.get(key) is not None]
    about += [("weight", f"{sum(weights) / 2:.4g}" if len(weights) == 2 else None)]
    about += [("pass rate", None if row.get("pass_rate") is None else f"{row['pass_rate']:.2f}")]
    chips = " ".join(
        f'<span class="badge">{name} {_text(str(value))}</span>' for name, value in about if value is not None
    )
    sides = "".join(
        _side(name, side, row, view.unit, largest)
        for name, side in zip(_SIDES, (view.chosen, view.rejected), strict=True)
    )
    return f"""<article>
<h3><span>{number}</span> {_text(str(row.get("id", "")))}</h3>
<p>{chips}</p>
<div class="box"><h4>Prompt <span class="badge">{view.prompt.length:,} {view.unit}, no loss</span></h4>
<div class="text">{_pieces(view.prompt.pieces, view.unit, 0.0, None)}</div></div>
<div class="pair">{sides}</div>
</article>
"""


def _side(name: str, side: Marked, row: Mapping[str, Any], unit: str, largest: float | None) -> str:
    number = row.get(f"{name}_index")
    generation = "" if number is None else f" · generation {number}"
    verdicts = "".join(
        f'<span class="badge {_SIGNS[word][0]}" title="{_SIGNS[word][0]}">{_SIGNS[word][1]} {_text(verifier)}</span>'
        for verifier, word in _verdicts(row.get(f"{name}_verdicts")).items()
    )
    return (
        f'<div class="box {name}"><h4>{name.capitalize()}'
        f'<span class="badge">{side.length:,} {unit}{generation}</span>{verdicts}</h4>'
        f'<div class="text">{_pieces(side.pieces, unit, 1.0 if name == "chosen" else -1.0, largest)}</div></div>'
    )


def _verdicts(text: str | None) -> dict[str, bool | None]:
    """The verifiers' words; text that is not as expected is shown as it is."""
    try:
        words = json.loads(text or "{}")
    except ValueError:
        words = None
    if not isinstance(words, dict):
        return {str(text): None}
    return {str(name): word if isinstance(word, bool) else None for name, word in words.items()}


def _pieces(pieces: Iterable[Piece], unit: str, sign: float, largest: float | None) -> str:
    return "".join(_piece(piece, unit, sign, largest) for piece in pieces)


def _piece(piece: Piece, unit: str, sign: float, largest: float | None) -> str:
    if piece.kind == "gap":
        return f'<span class="gap">⋯ {piece.size:,} {unit} not shown ⋯</span>'
    text = _text(piece.text).replace("\n", "<s>↵</s>\n")
    if piece.kind == "prompt":
        return f'<span class="prompt">{text}</span>'
    tag, names, style = "b" if piece.kind == "end" else "i", ["part"] * piece.is_parting, ""
    notes = [] if piece.size == 1 else [f"{piece.size} {unit}"]
    if largest is not None:
        name, style = _shade(sign * piece.weight, largest)
        names, notes = [*names, name], [*notes, f"weight {piece.weight:.4g}"]
    mark = f' class="{" ".join(names)}"' if names else ""
    note = f' title="{", ".join(notes)}"' if notes else ""
    return f"<{tag}{mark}{note}{style}>{text}</{tag}>"


def _plot_lengths(contents: Contents, destination: Path) -> Path:
    """Histograms of the lengths of right and of wrong traces on a logarithmic axis, with their medians."""
    figure, ax = new_figure(_WIDTH, 3.5)
    everything = np.maximum(np.array([*contents.right, *contents.wrong] or [1, 10], dtype=np.float64), 1)
    number = int(np.clip(2 * np.sqrt(len(everything)), 8, _MOST_BINS))
    bins = np.geomspace(everything.min() * 0.95, everything.max() * 1.05 + 1, number + 1)
    for name, lengths, colour in (("right", contents.right, GOOD), ("wrong", contents.wrong, BAD)):
        if lengths:
            values, median = np.maximum(lengths, 1), float(np.median(lengths))
            shares = np.full(len(values), 100 / len(values))
            label = f"{name}: {len(values):,}, median {median:,.0f}"
            ax.hist(values, bins=bins, weights=shares, histtype="step", color=colour, linewidth=1.6, label=label)
            ax.axvline(max(median, 1), color=colour, linewidth=1.6, linestyle="--")
            ax.legend(frameon=False)
    ax.set_xscale("log")
    ax.set_xlabel(f"{contents.unit} (logarithmic; dashed lines: medians)")
    ax.set_ylabel("% of traces")
    dress(ax, "Lengths of right and wrong traces", grid="y")
    return save_figure(figure, destination)
