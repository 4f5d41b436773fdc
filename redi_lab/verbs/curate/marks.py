"""A pair cut into pieces that show what training sees: what carries loss, how much, and where both traces part.

    view = mark_pair(row, encoder=None)
    view.chosen[0]  # Piece("It", "loss", 1)

With an encoder a piece is a token (or the few that share a character), without one a word; white space belongs to what
follows it. What a long trace has outside the window becomes one piece of the kind "gap".
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal, NamedTuple, final

from redi_lab.data.token_weights import Rule, common_prefix, weigh
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import TraceWeights

END_OF_TURN = "end of turn"

_WORD = re.compile(r"\s*\S{1,24}|\s+")
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
# The latter turn the direction of what follows, and could make a page say what is not in the data.
_NAMED = {code: f"⟨U+{code:04X}⟩" for code in (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_VISIBLE: dict[int, int | str] = {**_CONTROLS, **_NAMED}


class Piece(NamedTuple):
    """A stretch of text; `size` is in tokens or words, `is_parting` marks where chosen and rejected part."""

    text: str
    kind: Literal["loss", "end", "gap"]
    size: int
    is_parting: bool = False
    weight: float = 1.0


class Window(NamedTuple):
    """How many pieces of a trace are shown: at its start, on each side of the parting, and at its end."""

    head: int = 160
    around: int = 120
    tail: int = 60


@final
@dataclass(frozen=True, slots=True)
class PairView:
    """A pair, ready to be shown. `prompt_length` and `common_prefix` are in `unit`."""

    unit: Literal["tokens", "words"]
    prompt: str
    prompt_length: int
    chosen: Sequence[Piece]
    rejected: Sequence[Piece]
    common_prefix: int


def visible(text: str) -> str:
    """The text with pictures for control characters, which could turn a page around."""
    return text.translate(_VISIBLE)


def mark_pair(
    row: Mapping[str, Any], encoder: TraceEncoder | None, window: Window | None = None, rule: Rule = "none"
) -> PairView:
    """Cut a row of pairs.parquet into pieces.

    Args:
        row: its columns problem, chosen and rejected are used, and what the rule is made from.
        encoder: writes the prompt as in training and cuts into tokens; None cuts into words.
        window: what is shown of a trace.
        rule: how tokens are weighed, see `redi_lab.data.token_weights`.

    Raises:
        UserError: the rule cannot weigh the row, or the tokenizer does not say where its tokens stand.
    """
    units = [_units(row[side], encoder) for side in ("chosen", "rejected")]
    common = common_prefix(*units)
    chosen, rejected = (
        list(_windowed(_pieces(row, side, encoder, rule, min(common, len(of_side) - 1)), window or Window()))
        for side, of_side in zip(("chosen", "rejected"), units, strict=True)
    )
    if encoder is None:
        return PairView("words", row["problem"], len(_WORD.findall(row["problem"])), chosen, rejected, common)
    prompt = encoder.prompt_ids(row["problem"])
    text = encoder.tokenizer.decode(prompt, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    return PairView("tokens", text, len(prompt), chosen, rejected, common)


def _units(text: str, encoder: TraceEncoder | None) -> Sequence[Any]:
    """What two traces are compared by: the tokens or words of a completion, and its end of turn."""
    return [*_WORD.findall(text), None] if encoder is None else encoder.completion_ids(text)


def _pieces(
    row: Mapping[str, Any], side: str, encoder: TraceEncoder | None, rule: Rule, parting: int
) -> Iterator[Piece]:
    text, start, end_of_turn = row[side], 0, END_OF_TURN
    if encoder is None:
        last = [*(word.end() - 1 for word in _WORD.finditer(text)), len(text) - 1]
    else:
        (last,) = encoder.last_characters([text])
        end_of_turn = str(encoder.tokenizer.decode([encoder.end_of_turn_id]))
        start = len(encoder.thinking_prefix) if text.startswith(encoder.thinking_prefix) else 0  # ends the prompt
    weights = weigh(rule, TraceWeights.of_columns(row, f"{side}_"), is_chosen=side == "chosen", row=str(row.get("id")))
    at = [1.0] * len(last) if weights is None else list(map(float, weights.at(last)))
    place = 0
    for character, units in groupby(last[:-1]):
        size = len(list(units))
        yield Piece(text[start : character + 1], "loss", size, place <= parting < place + size, at[place])
        start, place = character + 1, place + size
    yield Piece(end_of_turn, "end", 1, parting == place, at[-1])


def _windowed(pieces: Iterator[Piece], window: Window) -> Iterator[Piece]:
    """The pieces within the window; each run of others as one gap."""
    everything = list(pieces)
    parting = next((place for place, piece in enumerate(everything) if piece.is_parting), 0)

    def is_shown(place: int) -> bool:
        is_at_an_end = place < window.head or place >= len(everything) - window.tail
        return is_at_an_end or abs(place - parting) <= window.around

    for shown, places in groupby(range(len(everything)), key=is_shown):
        part = [everything[place] for place in places]
        yield from part if shown else [Piece("", "gap", sum(piece.size for piece in part))]
