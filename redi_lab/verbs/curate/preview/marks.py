"""A pair cut into pieces that show what training sees: the prompt, what carries loss, and where both traces part.

    view = mark_pair(row, encoder=None, window=Window(head=100, around=60, tail=30))
    view.chosen.pieces[0].kind  # "loss"

With an encoder a piece is a token (or the few that share a character), without one a word. What a long text has
outside the window becomes one piece of the kind "gap" that says how much it stands for.
"""

from __future__ import annotations

import bisect
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, final

import numpy as np

from redi_lab.curation.pairing import Trace, common_prefix
from redi_lab.data.tokenization import TraceEncoder

Kind = Literal["prompt", "loss", "end", "gap"]
Unit = Literal["tokens", "characters"]

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
    """A stretch of text. `size` is in tokens or characters; `is_parting` marks where chosen and rejected part."""

    text: str
    kind: Kind
    size: int
    is_parting: bool = False


@final
@dataclass(frozen=True, slots=True)
class Window:
    """How many pieces of a text are shown: at its start, on each side of the parting, and at its end."""

    head: int
    around: int
    tail: int


@final
@dataclass(frozen=True, slots=True)
class Side:
    """One trace of a pair. `length` is |y|, with the end of turn, in tokens; or the number of characters."""

    name: Literal["chosen", "rejected"]
    pieces: tuple[Piece, ...]
    length: int
    generation_index: int | None
    verdicts: Mapping[str, bool | None]


@final
@dataclass(frozen=True, slots=True)
class PairView:
    """A pair, ready to be shown. Lengths and `common_prefix` are in `unit`."""

    id: str
    source: str | None
    source_row: int | None
    answer: str | None
    unit: Unit
    prompt: tuple[Piece, ...]
    prompt_length: int
    chosen: Side
    rejected: Side
    common_prefix: int


def visible(text: str) -> str:
    """The text with pictures for control characters, which would move a terminal's cursor or turn a page around."""
    return text.translate(_VISIBLE)


def mark_pair(row: Mapping[str, Any], encoder: TraceEncoder | None, window: Window) -> PairView:
    """Cut a row of pairs.parquet into pieces.

    Args:
        row: problem, chosen and rejected; what else it has is shown, what it lacks is not.
        encoder: writes the prompt as in training and cuts into tokens; None cuts into words.
        window: what is shown of a trace; of the prompt as much is shown as of a whole trace, at its ends.
    """
    prompt = _cut_prompt(str(row["problem"]), encoder)
    cuts = [_cut_completion(str(row[name]), encoder) for name in ("chosen", "rejected")]
    common = common_prefix(cuts[0].trace(), cuts[1].trace())
    chosen, rejected = (_side(row, name, cut, common, window) for name, cut in zip(_SIDES, cuts, strict=True))
    both_ends = Window(window.head + 2 * window.around, 0, window.tail)
    return PairView(
        id=str(row.get("id", "")),
        source=row.get("source"),
        source_row=row.get("source_row"),
        answer=row.get("answer"),
        unit="characters" if encoder is None else "tokens",
        prompt=tuple(_pieces(prompt, "prompt", None, both_ends)),
        prompt_length=prompt.size(0, len(prompt)),
        chosen=chosen,
        rejected=rejected,
        common_prefix=common,
    )


_SIDES: tuple[Literal["chosen", "rejected"], ...] = ("chosen", "rejected")


class _Cut(Protocol):
    """A text in places, each of which is a token or a word."""

    has_end: bool
    """Whether the last place is the end of turn."""

    def __len__(self) -> int: ...

    def size(self, start: int, stop: int) -> int:
        """The size of the places from `start` to before `stop`, in the unit of the view."""

    def place(self, prefix: int) -> int:
        """The place where the text goes on after a prefix of that size."""

    def render(self, start: int, stop: int) -> Iterator[tuple[str, int]]:
        """The texts of those places, each with the number of places that it takes."""

    def trace(self) -> Trace:
        """What prefixes are compared by."""


@final
class _Words:
    def __init__(self, text: str, *, has_end: bool) -> None:
        self.has_end = has_end
        self._text = text
        self._words = _WORD.findall(text) + [""] * has_end
        self._starts = [0, *itertools.accumulate(len(word) for word in self._words)]

    def __len__(self) -> int:
        return len(self._words)

    def size(self, start: int, stop: int) -> int:
        return self._starts[stop] - self._starts[start]

    def place(self, prefix: int) -> int:
        return min(bisect.bisect_right(self._starts, prefix) - 1, len(self) - 1)

    def render(self, start: int, stop: int) -> Iterator[tuple[str, int]]:
        for place in range(start, stop):
            yield (END_OF_TURN if self.has_end and place == len(self) - 1 else self._words[place]), 1

    def trace(self) -> Trace:
        return Trace(0, self._text)


@final
class _Tokens:
    def __init__(self, tokenizer: Any, ids: Sequence[int], *, has_end: bool) -> None:
        self.has_end = has_end
        self._tokenizer = tokenizer
        self._ids = list(ids)

    def __len__(self) -> int:
        return len(self._ids)

    def size(self, start: int, stop: int) -> int:
        return stop - start

    def place(self, prefix: int) -> int:
        return min(prefix, len(self) - 1)

    def render(self, start: int, stop: int) -> Iterator[tuple[str, int]]:
        """Tokens may hold part of a character, so they are joined until all of them can be read."""
        first = start
        for place in range(start, stop):
            is_last = place == stop - 1 or (self.has_end and place == len(self) - 2)
            before = self._ids[max(first - 1, 0) : first]  # some tokenizers drop the space of a first token
            text = self._decode(before + self._ids[first : place + 1])[len(self._decode(before)) :]
            if is_last or "\ufffd" not in text or place + 1 - first >= _LONGEST_GROUP:
                yield text, place + 1 - first
                first = place + 1

    def trace(self) -> Trace:
        return Trace(0, "", np.array(self._ids, dtype=np.int32))

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _cut_prompt(problem: str, encoder: TraceEncoder | None) -> _Cut:
    if encoder is None:
        return _Words(problem, has_end=False)
    return _Tokens(encoder.tokenizer, encoder.prompt_ids(problem), has_end=False)


def _cut_completion(text: str, encoder: TraceEncoder | None) -> _Cut:
    if encoder is None:
        return _Words(text, has_end=True)
    return _Tokens(encoder.tokenizer, encoder.completion_ids(text), has_end=True)


def _side(row: Mapping[str, Any], name: Literal["chosen", "rejected"], cut: _Cut, common: int, window: Window) -> Side:
    return Side(
        name,
        tuple(_pieces(cut, "loss", cut.place(common), window)),
        cut.size(0, len(cut)),
        row.get(f"{name}_index"),
        _verdicts(row.get(f"{name}_verdicts")),
    )


def _pieces(cut: _Cut, kind: Kind, parting: int | None, window: Window) -> Iterator[Piece]:
    shown_until = 0
    for start, stop in _shown(len(cut), parting, window):
        if start > shown_until:
            yield Piece("", "gap", cut.size(shown_until, start))
        place = start
        for text, count in cut.render(start, stop):
            end = place + count
            is_end = cut.has_end and end == len(cut)
            is_parting = parting is not None and place <= parting < end
            yield Piece(text, "end" if is_end else kind, cut.size(place, end), is_parting)
            place = end
        shown_until = stop


def _shown(number: int, parting: int | None, window: Window) -> list[tuple[int, int]]:
    """The places to show, as ranges in order that do not touch."""
    wanted = [(0, window.head), (number - window.tail, number)]
    if parting is not None:
        wanted.insert(1, (parting - window.around, parting + window.around + 1))
    ranges: list[tuple[int, int]] = []
    for start, stop in sorted((max(start, 0), min(stop, number)) for start, stop in wanted):
        if ranges and start <= ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(stop, ranges[-1][1]))
        elif start < stop:
            ranges.append((start, stop))
    return ranges


def _verdicts(text: object) -> dict[str, bool | None]:
    """The verifiers' words; of text that is not as expected, all there is to show."""
    if not isinstance(text, str):
        return {}
    try:
        words = json.loads(text)
    except ValueError:
        return {text: None}
    if not isinstance(words, dict):
        return {text: None}
    return {str(name): word if isinstance(word, bool) else None for name, word in words.items()}
