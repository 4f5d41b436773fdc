"""The page of a data preview: one HTML file that needs neither network nor scripts. All text of the data is escaped.

page = preview_page("Preview of my-data", facts, figures, views)
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from redi_lab.figures.page import embedded_image, render_page
from redi_lab.verbs.curate.preview.marks import PairView, Piece, Side, visible

_SIGNS = {True: ("right", "✓"), False: ("wrong", "✗"), None: ("unknown", "?")}


@final
@dataclass(frozen=True, slots=True)
class Fact:
    """A number at the top of the page, with its name and a word on it."""

    name: str
    value: str
    note: str = ""
    is_warning: bool = False


def preview_page(
    title: str, subtitle: str, facts: Sequence[Fact], figures: Mapping[str, Path], views: Sequence[PairView]
) -> str:
    """The whole page.

    Args:
        title: of the page.
        subtitle: where the data is from.
        facts: numbers for the top.
        figures: what a plot shows → its PNG, which is embedded.
        views: the pairs to show.
    """
    plots = "".join(embedded_image(visible(name), path) for name, path in figures.items())
    unit = views[0].unit if views else "tokens"
    cards = "".join(_card(number, view) for number, view in enumerate(views, start=1))
    body = f"""<header>
<h1>{_text(title)}</h1>
<p class="sub">{_text(subtitle)}</p>
</header>
<section class="facts">{"".join(_fact(fact) for fact in facts)}</section>
<h2>What is in it</h2>
<section class="plots">{plots}</section>
<h2>What training sees</h2>
{_legend(unit) if views else ""}
{cards or "<p>There is no pair in this folder.</p>"}"""
    return render_page(visible(title), body, _STYLE)


def _text(text: str) -> str:
    return html.escape(visible(text))


def _fact(fact: Fact) -> str:
    warning = " warning" if fact.is_warning else ""
    return (
        f'<div class="fact{warning}"><span class="name">{_text(fact.name)}</span>'
        f'<span class="value">{_text(fact.value)}</span><span class="note">{_text(fact.note)}</span></div>'
    )


def _legend(unit: str) -> str:
    what = "Each box is a token" if unit == "tokens" else "Each box is a word (give a tokenizer to see tokens)"
    return (
        '<p class="legend text"><span class="prompt">prompt: no loss</span>'
        '<span class="chosen"><i>chosen:</i><i> its</i><i> log-prob</i><i> rises</i></span>'
        '<span class="rejected"><i>rejected:</i><i> its</i><i> log-prob</i><i> falls</i></span>'
        '<span class="chosen"><i class="part">here</i></span><span>both part</span>'
        '<span class="chosen"><b>end of turn</b></span><span>the last token in the loss</span>'
        f'<span class="hint">{what}; hover for its size.</span></p>'
    )


def _card(number: int, view: PairView) -> str:
    about = [("row", view.source_row), ("source", view.source), ("answer", view.answer)]
    chips = "".join(
        f'<span class="chip"><em>{name}</em> {_text(str(value))}</span>' for name, value in about if value is not None
    )
    longest = max(view.chosen.length, view.rejected.length, 1)
    ratio = view.rejected.length / max(view.chosen.length, 1)
    return f"""<article>
<h3><span class="number">{number}</span> {_text(view.id)}</h3>
<p class="chips">{chips}<span class="chip"><em>common prefix</em> {view.common_prefix:,} {view.unit}</span>\
<span class="chip"><em>rejected / chosen</em> {ratio:.2f}</span></p>
<div class="box"><h4>Prompt <span class="length">{view.prompt_length:,} {view.unit}, no loss</span></h4>
<div class="text">{_pieces(view.prompt, view.unit)}</div></div>
<div class="pair">{_side(view.chosen, view.unit, longest)}{_side(view.rejected, view.unit, longest)}</div>
</article>
"""


def _side(side: Side, unit: str, longest: int) -> str:
    number = "" if side.generation_index is None else f" · generation {side.generation_index}"
    return (
        f'<div class="box {side.name}"><h4>{side.name.capitalize()}'
        f'<span class="length">{side.length:,} {unit}{number}</span>{_verdicts(side.verdicts)}</h4>'
        f'<div class="bar"><div style="width:{100 * side.length / longest:.1f}%"></div></div>'
        f'<div class="text">{_pieces(side.pieces, unit)}</div></div>'
    )


def _verdicts(verdicts: Mapping[str, bool | None]) -> str:
    return "".join(
        f'<span class="verdict {_SIGNS[word][0]}" title="{_SIGNS[word][0]}">{_SIGNS[word][1]} {_text(name)}</span>'
        for name, word in verdicts.items()
    )


def _pieces(pieces: Iterable[Piece], unit: str) -> str:
    return "".join(_piece(piece, unit) for piece in pieces)


def _piece(piece: Piece, unit: str) -> str:
    if piece.kind == "gap":
        return f'<span class="gap">⋯ {piece.size:,} {unit} not shown ⋯</span>'
    text = _text(piece.text).replace("\n", "<s>↵</s>\n")
    mark = ' class="part"' if piece.is_parting else ""
    if piece.kind == "prompt":
        return f'<span class="prompt">{text}</span>'
    if piece.kind == "end":
        return f"<b{mark}>{text}</b>"
    size = "" if unit == "tokens" and piece.size == 1 else f' title="{piece.size} {unit}"'
    return f"<i{mark}{size}>{text}</i>"


_STYLE = """
:root { color-scheme: light; --ink: #1f2933; --soft: #616e7c; --line: #e4e7eb;
        --chosen: 0,114,178; --rejected: 213,94,0; }
* { box-sizing: border-box; }
body { font: 15px/1.55 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--ink); background: #f5f7fa;
       max-width: 84rem; margin: 0 auto; padding: 2.2rem 1.5rem 4rem; }
h1 { font-size: 1.7rem; margin: 0; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin: 2.4rem 0 .9rem; }
h3 { font-size: 1.02rem; margin: 0 0 .5rem; overflow-wrap: anywhere; }
h4 { font-size: .86rem; margin: 0 0 .55rem; display: flex; flex-wrap: wrap; gap: .35rem .7rem; align-items: baseline; }
.sub { color: var(--soft); margin: .25rem 0 1.4rem; overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(10.5rem, 1fr)); gap: .8rem; }
.fact, article, .plots img { background: #fff; border: 1px solid var(--line); border-radius: 10px; }
.fact { padding: .7rem .95rem; display: flex; flex-direction: column; }
.fact .name { color: var(--soft); font-size: .8rem; }
.fact .value { font-size: 1.45rem; font-weight: 650; font-variant-numeric: tabular-nums; line-height: 1.3; }
.fact .note { color: var(--soft); font-size: .8rem; }
.fact.warning { border-color: #e3b341; background: #fffbeb; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(32rem, 100%), 1fr));
         gap: .9rem; align-items: start; }
.plots img { width: 100%; padding: .7rem; } .plots img:nth-child(2) { grid-row: span 2; }
article { padding: 1.1rem 1.3rem 1.3rem; margin-bottom: 1.3rem; }
.number { display: inline-block; min-width: 1.7em; text-align: center; background: var(--ink); color: #fff;
          border-radius: 6px; padding: 0 .4em; margin-right: .35em; }
.chips { margin: 0 0 .9rem; display: flex; flex-wrap: wrap; gap: .4rem; }
.chip { font-size: .82rem; background: #eef1f5; border-radius: 6px; padding: .08rem .55rem; overflow-wrap: anywhere; }
.chip em { font-style: normal; color: var(--soft); }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(24rem, 100%), 1fr));
         gap: .9rem; margin-top: .9rem; }
.box { border: 1px solid var(--line); border-radius: 8px; padding: .75rem .9rem; min-width: 0; }
.box.chosen { border-top: 3px solid rgb(var(--chosen)); } .box.rejected { border-top: 3px solid rgb(var(--rejected)); }
.length { color: var(--soft); font-weight: 400; }
.bar { height: 4px; background: #eef1f5; border-radius: 2px; margin-bottom: .65rem; }
.bar div { height: 100%; border-radius: 2px; }
.chosen .bar div { background: rgb(var(--chosen)); } .rejected .bar div { background: rgb(var(--rejected)); }
.verdict { font-weight: 500; font-size: .8rem; padding: 0 .5em; border-radius: 1em; }
.verdict.right { background: #e0f2e9; color: #0b5f36; } .verdict.wrong { background: #fde5e0; color: #98260f; }
.verdict.unknown { background: #fff3cd; color: #7a5700; }
.text { font: 12.5px/1.75 ui-monospace, "SF Mono", "DejaVu Sans Mono", monospace; white-space: pre-wrap;
        overflow-wrap: anywhere; unicode-bidi: isolate; }
.text .prompt { color: #8794a3; } .text i { font-style: normal; border-radius: 3px; padding: .12em 0; }
.chosen i { background: rgba(var(--chosen), .10); }
.chosen i:nth-of-type(even) { background: rgba(var(--chosen), .20); }
.rejected i { background: rgba(var(--rejected), .11); }
.rejected i:nth-of-type(even) { background: rgba(var(--rejected), .21); }
.text s { text-decoration: none; color: #a3aebb; user-select: none; }
.text b { font-weight: 600; border: 1.5px solid; border-radius: 5px; padding: 0 .4em; margin-left: .15em; }
.chosen b { color: rgb(var(--chosen)); } .rejected b { color: rgb(var(--rejected)); }
.text i.part, .text b.part { background: #ffe066; outline: 2px solid #d9a400; font-weight: 700; }
.gap { display: block; text-align: center; color: var(--soft); font: 12px/1.4 system-ui, sans-serif; margin: .6rem 0;
       padding: .3rem; border-block: 1px dashed #cbd2d9; background: #fafbfc; }
.legend { background: #fff; border: 1px solid var(--line); border-radius: 8px; padding: .55rem .9rem; margin: 0 0 1rem;
          display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; align-items: baseline; white-space: normal; }
.legend i { white-space: pre; } .legend .hint { color: var(--soft); }
"""
