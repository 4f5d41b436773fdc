"""The page of a data preview: one HTML file that needs neither network nor scripts. All text of the data is escaped."""

from __future__ import annotations

import html
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np

from redi_lab.figures.page import embedded_image, render_page
from redi_lab.figures.style import BAD, GOOD, dress, new_figure, save_figure
from redi_lab.verbs.curate.preview.marks import PairView, Piece, visible

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
class Lengths:
    """Lengths of all right and wrong traces, in `unit`."""

    unit: str
    right: Sequence[int]
    wrong: Sequence[int]


def preview_page(
    title: str,
    subtitle: str,
    lengths: Lengths,
    report: Mapping[str, Any],
    pairs: Sequence[tuple[Mapping[str, Any], PairView]],
    folder: Path,
) -> str:
    """The whole page.

    Args:
        title: of the page.
        subtitle: where the data is from.
        lengths: of the files.
        report: report.json; may be empty.
        pairs: those to show, rows of pairs.parquet and what is marked in them.
        folder: for the plot, which is also embedded.
    """
    pieces = [piece for _, view in pairs for piece in (*view.chosen, *view.rejected)]
    weights = [piece.weight for piece in pieces if piece.kind != "gap"]
    largest = (max(map(abs, weights)) or 1.0) if any(weight != 1.0 for weight in weights) else None
    cards = "".join(_card(number, *pair, largest) for number, pair in enumerate(pairs, start=1))
    body = f"""<h1>{_text(title)}</h1>
<p class="sub">{_text(subtitle)}</p>
{"".join(f"<p>{_text(fact)}</p>" for fact in facts(lengths, report))}
{embedded_image("Lengths of right and wrong traces", _plot(lengths, folder / "lengths.png"))}
<h2>What training sees</h2>
{_LEGEND + _scale(largest) + _BOXES[pairs[0][1].unit] if pairs else ""}
{cards or "<p>There is no pair in this folder.</p>"}"""
    return render_page(visible(title), body)


def facts(lengths: Lengths, report: Mapping[str, Any]) -> Iterator[str]:
    """The numbers at the top, a line each."""
    for name in ("rows", "generations"):
        numbers = report.get(name) or {}
        if numbers.get("read"):
            used = numbers.get("used", 0)
            yield f"{name}: {numbers['read']:,} read, {used:,} used ({100 * used / numbers['read']:.1f} %)"
    yield f"demonstrations (right traces for SFT): {len(lengths.right):,}; pairs: {len(lengths.wrong):,}"
    verdicts = report.get("verdicts") or {}
    if verdicts:
        unknown = sum((verdicts.get("unknown") or {}).values())
        yield f"verdicts: {verdicts.get('right', 0):,} right, {verdicts.get('wrong', 0):,} wrong, {unknown:,} unknown"
    poisoned = sum((verdicts.get("unknown_used_as_negative") or {}).values())
    if poisoned:
        yield f"WARNING: {poisoned:,} unknown traces are used as wrong ones: rejected, though nobody knows"


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


def _plot(lengths: Lengths, destination: Path) -> Path:
    """Histograms of the lengths of right and of wrong traces on a logarithmic axis, with their medians."""
    figure, ax = new_figure(8.5, 3.5)
    everything = np.maximum([*lengths.right, *lengths.wrong] or [1, 10], 1)
    bins = np.geomspace(everything.min() * 0.95, everything.max() * 1.05 + 1, 41)
    for name, values, colour in (("right", lengths.right, GOOD), ("wrong", lengths.wrong, BAD)):
        if values:
            median, shares = float(np.median(values)), np.full(len(values), 100 / len(values))
            label = f"{name}: {len(values):,}, median {median:,.0f}"
            ax.hist(np.maximum(values, 1), bins=bins, weights=shares, histtype="step", color=colour, label=label)
            ax.axvline(max(median, 1), color=colour, linestyle="--")
            ax.legend(frameon=False)
    ax.set_xscale("log")
    ax.set_xlabel(f"{lengths.unit} (logarithmic; dashed lines: medians)")
    ax.set_ylabel("% of traces")
    dress(ax, "Lengths of right and wrong traces", grid="y")
    return save_figure(figure, destination)
