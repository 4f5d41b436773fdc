"""A data preview on the screen. Text of the data is never read as markup, and holds no control characters.

show(Console(), "my-data", facts, views)
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.columns import Columns
from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from redi_lab.verbs.curate.preview.html import Fact
from redi_lab.verbs.curate.preview.marks import PairView, Piece, Side, visible

_STYLES = {"chosen": "blue", "rejected": "red"}


def show(console: Console, subtitle: str, facts: Sequence[Fact], views: Sequence[PairView]) -> None:
    """Print the numbers and the pairs.

    Args:
        console: where to.
        subtitle: where the data is from.
        facts: the numbers.
        views: the pairs.
    """
    console.print(Text(visible(subtitle), style="bold"))
    console.print(Columns([_fact(fact) for fact in facts]))
    for number, view in enumerate(views, start=1):
        console.print(_panel(number, view))


def _fact(fact: Fact) -> Panel:
    value = Text(fact.value, style="bold yellow" if fact.is_warning else "bold")
    return Panel(Group(Text(fact.name, style="dim"), value, Text(fact.note, style="dim")))


def _panel(number: int, view: PairView) -> Panel:
    about = [("row", view.source_row), ("source", view.source), ("answer", view.answer)]
    words = [f"{name} {value}" for name, value in about if value is not None]
    words.append(f"common prefix {view.common_prefix:,} {view.unit}")
    prompt = Text.assemble(
        (f"prompt, {view.prompt_length:,} {view.unit}\n", "bold dim"), _marked(view.prompt, "", view)
    )
    sides = [item for side in (view.chosen, view.rejected) for item in (Text(), _side(side, view))]
    title = Text(visible(f" {number} · {view.id} "), style="bold")
    return Panel(
        Group(Text(visible(" · ".join(words)), style="dim"), Text(), prompt, *sides), title=title, title_align="left"
    )


def _side(side: Side, view: PairView) -> Text:
    style = _STYLES[side.name]
    heading = Text(f"{side.name}, {side.length:,} {view.unit} ", style=f"bold {style}")
    for name, word in side.verdicts.items():
        sign, colour = {True: ("✓", "green"), False: ("✗", "red"), None: ("?", "yellow")}[word]
        heading.append(f" {sign} {visible(name)}", style=colour)
    return Text.assemble(heading, "\n", _marked(side.pieces, style, view))


def _marked(pieces: Sequence[Piece], style: str, view: PairView) -> Text:
    text = Text()
    for piece in pieces:
        if piece.kind == "gap":
            text.append(f" ⋯ {piece.size:,} {view.unit} not shown ⋯ ", style="dim italic")
            continue
        shown = "dim" if piece.kind == "prompt" else style
        if piece.kind == "end":
            shown = f"{style} bold reverse"
        if piece.is_parting:
            shown = "bold black on yellow"
        text.append(visible(piece.text), style=shown)
    return text
