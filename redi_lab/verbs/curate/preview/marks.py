"""A pair cut into pieces that show what training sees: the prompt, what carries loss, and where both traces part.

    view = mark_pair(row, encoder=None, window=Window(head=100, around=60, tail=30))
    view.chosen.pieces[0].kind  # "loss"

With an encoder a piece is a token (or the few that share a character), without one a word. What a long text has
outside the window becomes one piece of the kind "gap" that says how much it stands for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, takewhile
from typing import Any, Literal, final

from redi_lab.data.token_weights import Rule, weigh
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import TraceWeights

Kind = Literal["prompt", "loss", "end", "gap"]
Render = Callable[[int, int], Iterator[tuple[str, int]]]
"""From a range of places to their texts, each with the number of places that it takes."""

END_OF_TURN = "end of turn"

_WORD = re.compile(r"\S{1,24}\s{0,24}|\s{1,24}")
_LONGEST_GROUP = 8  # tokens that may share one character before it is called undecodable
_CONTROLS = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}
# The latter turn the direction of what follows, and could make a page say what is not in the data.
_NAMED = {code: f"⟨U+{code:04X}⟩" for code in (*range(0x80, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A))}
_VISIBLE: dict[int, int | str] = {**_CONTROLS, **_NAMED}


@final
@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of text. `size` is in tokens or words; `is_parting` marks where chosen and rejected part.

    `weight` is that of its last token or word.
    """

    text: str
    kind: Kind
    size: int
    is_parting: bool = False
    weight: float = 1.0


@final
@dataclass(frozen=True, slots=True)
class Window:
    """How many pieces of a text are shown: at its start, on each side of the parting, and at its end."""

    head: int = 160
    around: int = 120
    tail: int = 60


@final
@dataclass(frozen=True, slots=True)
class Marked:
    """A text in pieces, and its length: of a completion |y|, with the end of turn."""

    pieces: tuple[Piece, ...]
    length: int


@final
@dataclass(frozen=True, slots=True)
class PairView:
    """A pair, ready to be shown. Lengths and `common_prefix` are in `unit`."""

    unit: Literal["tokens", "words"]
    prompt: Marked
    chosen: Marked
    rejected: Marked
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
        window: what is shown of a trace; of the prompt as much is shown as of a whole trace, at its ends.
        rule: how tokens are weighed, see `redi_lab.data.token_weights`.

    Raises:
        UserError: the rule cannot weigh the row.
    """
    window = window or Window()
    problem, texts = str(row["problem"]), [str(row[name]) for name in ("chosen", "rejected")]
    if encoder is None:
        prompt: Sequence[Any] = _WORD.findall(problem)
        chosen, rejected = ([*_WORD.findall(text), END_OF_TURN] for text in texts)
        renders: list[Render] = [_words(part) for part in (prompt, chosen, rejected)]
    else:
        prompt = encoder.prompt_ids(problem)
        chosen, rejected = (list(encoder.completion_ids(text)) for text in texts)
        renders = [_tokens(encoder.tokenizer, part) for part in (prompt, chosen, rejected)]
    weights = [_weights(rule, row, side, encoder, part) for side, part in (("chosen", chosen), ("rejected", rejected))]
    both = zip(chosen, rejected, strict=False)
    common = sum(
        1 for _ in takewhile(lambda at: str(at[0]).rstrip() == str(at[1]).rstrip(), both)
    )  # words end in blanks
    both_ends = Window(window.head + 2 * window.around, 0, window.tail)
    return PairView(
        unit="words" if encoder is None else "tokens",
        prompt=Marked(tuple(_pieces(len(prompt), renders[0], both_ends)), len(prompt)),
        chosen=_mark(len(chosen), renders[1], window, common, weights[0]),
        rejected=_mark(len(rejected), renders[2], window, common, weights[1]),
        common_prefix=common,
    )


def _weights(
    rule: Rule, row: Mapping[str, Any], side: str, encoder: TraceEncoder | None, pieces: Sequence[Any]
) -> Sequence[float] | None:
    """The weight of each token, or word, of a side; None where all are 1."""
    if rule == "none":
        return None
    characters = weigh(
        rule, TraceWeights.of_columns(row, f"{side}_"), is_chosen=side == "chosen", row=str(row.get("id"))
    )
    if characters is None:
        return None
    if encoder is not None:
        (places,) = encoder.last_characters([row[side]])
    else:
        *words, _ = pieces
        starts = accumulate(map(len, words), initial=0)
        places = [start + max(len(word.rstrip()), 1) - 1 for start, word in zip(starts, words, strict=False)]
        places.append(len(row[side]) - 1)
    return list(map(float, characters.at(places)))


def _mark(length: int, render: Render, window: Window, common: int, weights: Sequence[float] | None) -> Marked:
    return Marked(tuple(_pieces(length, render, window, min(common, length - 1), weights)), length)


def _words(words: Sequence[str]) -> Render:
    return lambda start, stop: ((word, 1) for word in words[start:stop])


def _tokens(tokenizer: Any, ids: Sequence[int]) -> Render:
    def decode(part: Sequence[int]) -> str:
        return str(tokenizer.decode(list(part), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def render(start: int, stop: int) -> Iterator[tuple[str, int]]:
        """Tokens may hold part of a character, so they are joined until all of them can be read."""
        first = start
        for place in range(start, stop):
            is_last = place == stop - 1 or place == len(ids) - 2  # the end of turn is a piece by itself
            before = ids[max(first - 1, 0) : first]  # some tokenizers drop the space of a first token
            text = decode([*before, *ids[first : place + 1]])[len(decode(before)) :]
            if is_last or "\ufffd" not in text or place + 1 - first >= _LONGEST_GROUP:
                yield text, place + 1 - first
                first = place + 1

    return render


def _pieces(
    length: int,
    render: Render,
    window: Window,
    parting: int | None = None,
    weights: Sequence[float] | None = None,
) -> Iterator[Piece]:
    """The pieces of a prompt, which has no parting, or of a completion."""
    shown_until = 0
    for start, stop in _shown(length, parting, window):
        if start > shown_until:
            yield Piece("", "gap", start - shown_until)
        place = start
        for text, count in render(start, stop):
            end = place + count
            kind: Kind = "prompt" if parting is None else "end" if end == length else "loss"
            is_parting = parting is not None and place <= parting < end
            yield Piece(text, kind, count, is_parting, 1.0 if weights is None else weights[end - 1])
            place = end
        shown_until = stop


def _shown(number: int, parting: int | None, window: Window) -> list[tuple[int, int]]:
    """The places to show, as ranges in order that do not touch."""
    wanted = [(0, window.head), (number - window.tail, number)]
    if parting is not None:
        wanted.append((parting - window.around, parting + window.around + 1))
    ranges: list[tuple[int, int]] = []
    for start, stop in sorted((max(start, 0), min(stop, number)) for start, stop in wanted):
        if ranges and start <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(stop, ranges[-1][1]))
        elif start < stop:
            ranges.append((start, stop))
    return ranges
