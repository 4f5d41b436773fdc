"""A user's own traces as a `TraceSource`: problems with judged generations, or ready pairs.

    TraceFileSource("traces.jsonl", num_heldout=100).load()

Rows of problems (other keys are fine and ignored):

    {"problem": "1+1?", "generations": [{"text": "2", "correct": true}, {"text": "3", "correct": false}],
     "answer": "2", "id": "a"}

`correct` is true, false, or null where nobody knows. `answer` (needed only to hold problems out, or to grade), `id`
(default: the number of the row, from 0) and `source` are optional, and so is `finish_reason` of a generation. Rows of
ready pairs:

    {"prompt": "1+1?", "chosen": "2", "rejected": "3"}

where each text may also be one message, [{"role": "user", "content": "1+1?"}], and a completion also the two messages
of one turn. Nothing is guessed: a wrong key, type or empty completion is refused with its place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Literal, final

from redi_lab.data.curation import curate
from redi_lab.data.rows import OnProgress, Row, RowTable, open_rows, tracked_rows
from redi_lab.data.traces import Dropped, Generation, Problem, TraceCorpus
from redi_lab.errors import UserError

Format = Literal["auto", "generations", "pairs"]

_REQUIRED = {"generations": ("problem", "generations"), "pairs": ("prompt", "chosen", "rejected")}


@final
class TraceFileSource:
    """Traces of a JSONL or Parquet file, a folder, or a hub data set, in the order of the source.

    Args:
        path: see `redi_lab.data.rows`.
        num_heldout: problems with an answer to keep for evaluation.
        seed: of that choice.
        format: the keys of the rows; "auto" goes by the first row.
        split: of a hub data set, a saved `DatasetDict`, or a folder of split files.
        revision: of a hub data set.
        on_progress: called while loading with rows done and rows in all, over all passes.
    """

    def __init__(
        self,
        path: str,
        num_heldout: int = 0,
        seed: int = 0,
        format: Format = "auto",
        split: str = "train",
        revision: str | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        if format not in ("auto", *_REQUIRED):
            raise UserError(f"data.format={format!r}: choose auto, {', '.join(_REQUIRED)}")
        self.path = path
        self.num_heldout = num_heldout
        self.seed = seed
        self.format = format
        self.split = split
        self.revision = revision
        self._on_progress = on_progress
        self._opened: RowTable | None = None

    def digest(self) -> str:
        """The sha256 of the content (or commit) and of the options; reads the files once, or asks the hub once.

        Raises:
            UserError: the data is not there.
        """
        options = [self.num_heldout, self.seed, self.format, self.split]
        return hashlib.sha256(json.dumps([type(self).__name__, self.table().digest(), *options]).encode()).hexdigest()

    def load(self) -> TraceCorpus:
        """Read and select.

        Raises:
            UserError: the data is not there, a row is not as documented, two rows share an id, too few problems can be
                held out, or nothing is left to train on.
        """
        table = self.table()
        shape = self._shape()
        rows = tracked_rows(table, self._on_progress, passes=2 if self.num_heldout else 1)
        return curate(
            lambda: parse_rows(rows(), shape),
            source=table.source,
            digest=self.digest(),
            num_heldout=self.num_heldout,
            seed=self.seed,
            distinct_demonstrations=shape == "pairs",
        )

    def problems(self) -> Iterator[Problem | Dropped]:
        """Every row as a problem, in the order of the source.

        Raises:
            UserError: as `load`.
        """
        return parse_rows(self.table().rows(), self._shape())

    def table(self) -> RowTable:
        """The raw rows.

        Raises:
            UserError: the data is not there.
        """
        if self._opened is None:  # kept, so that digest and load agree on the commit of a hub data set
            self._opened = open_rows(self.path, split=self.split, revision=self.revision)
        return self._opened

    def _shape(self) -> Literal["generations", "pairs"]:
        return detect_shape(next(self.table().rows())) if self.format == "auto" else self.format


def detect_shape(row: Row) -> Literal["generations", "pairs"]:
    """Tell rows of problems from ready pairs by the keys.

    Raises:
        UserError: the keys fit neither or both.
    """
    has_generations, has_pairs = (all(key in row.values for key in keys) for keys in _REQUIRED.values())
    if has_generations and has_pairs:
        raise UserError(f"{row.where}: the keys fit both forms: set data.format to generations or pairs")
    if has_generations:
        return "generations"
    if has_pairs:
        return "pairs"
    wanted = " or ".join("{" + _names(keys) + "}" for keys in _REQUIRED.values())
    raise UserError(f"{row.where}: the keys are {{{_names(row.values)}}}, expected {wanted}: rename them")


def parse_rows(rows: Iterator[Row], shape: Literal["generations", "pairs"]) -> Iterator[Problem]:
    """Problems of rows of one shape; a ready pair is a problem with one correct and one incorrect generation.

    Raises:
        UserError: a row has another shape, a wrong type, an empty text, or the id of an earlier row.
    """
    parse = _parse_generations if shape == "generations" else _parse_pair
    places: dict[str, str] = {}
    has_id = False
    for index, row in enumerate(rows):
        _require_keys(row, shape)
        if index == 0:
            has_id = "id" in row.values
        if ("id" in row.values) != has_id:
            raise UserError(f'{row.where}: either all rows have the key "id" or none (see the first row)')
        identity = _parse_id(row) if has_id else str(index)
        earlier = places.setdefault(identity, row.where)
        if earlier != row.where:
            raise UserError(f"{row.where}: the id {_show(identity)} is that of {earlier}: ids must be unique")
        yield parse(row, identity)


def _require_keys(row: Row, shape: str) -> None:
    missing = [key for key in _REQUIRED[shape] if key not in row.values]
    if missing:
        raise UserError(
            f"{row.where}: without the key {_names(missing)}; the keys are {{{_names(row.values)}}}, and every row "
            f"must have {{{_names(_REQUIRED[shape])}}}"
        )


def _parse_id(row: Row) -> str:
    value = row.values["id"]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise UserError(f'{row.where}: key "id": expected a text that is not empty, or an integer, got {_show(value)}')
    return value


def _parse_generations(row: Row, identity: str) -> Problem:
    problem = _text(row.values["problem"], row, identity, '"problem"')
    items = row.values["generations"]
    if not isinstance(items, list):
        raise UserError(f'{row.where}: key "generations": expected a list, got {_show(items)}')
    generations = tuple(
        _parse_generation(item, row, identity, f'"generations"[{index}]') for index, item in enumerate(items)
    )
    source = row.values.get("source")
    return Problem(identity, problem, _parse_answer(row), generations, source if isinstance(source, str) else None)


def _parse_generation(item: object, row: Row, identity: str, key: str) -> Generation:
    if not isinstance(item, dict) or "text" not in item or "correct" not in item:
        raise UserError(f'{row.where}: key {key}: expected an object with "text" and "correct", got {_show(item)}')
    correct = item["correct"]
    if correct is not None and not isinstance(correct, bool):
        raise UserError(f"{row.where}: key {key}.correct: expected true, false or null, got {_show(correct)}")
    reason = item.get("finish_reason")
    if reason is not None and not isinstance(reason, str):
        raise UserError(f"{row.where}: key {key}.finish_reason: expected a text or null, got {_show(reason)}")
    text = _text(item["text"], row, identity, f"{key}.text")
    return Generation(text, correct, () if correct is None else (("correct", correct),), reason)


def _parse_pair(row: Row, identity: str) -> Problem:
    prompt = _text(_only_message(row, "prompt", ["user"]), row, identity, '"prompt"')
    chosen, rejected = (
        _text(_completion_message(row, key, prompt), row, identity, f'"{key}"') for key in ("chosen", "rejected")
    )
    generations = tuple(
        Generation(text, verdict, (("correct", verdict),)) for text, verdict in ((chosen, True), (rejected, False))
    )
    return Problem(identity, prompt, _parse_answer(row), generations)


def _completion_message(row: Row, key: str, prompt: str) -> object:
    """The completion in any of its forms: a text, the assistant's message, or the prompt's message and then that."""
    value = row.values[key]
    if not (isinstance(value, list) and len(value) == 2):
        return _only_message(row, key, ["assistant"])
    answer = _only_message(row, key, ["user", "assistant"])
    if value[0].get("content") != prompt:
        raise UserError(f'{row.where}: key "{key}": the message of the user is not the prompt of this row')
    return answer


def _only_message(row: Row, key: str, expected: list[str]) -> object:
    """The last message of a conversation with exactly the expected roles; what is no list is passed on."""
    value = row.values[key]
    if not isinstance(value, list):
        return value
    roles = [item.get("role") if isinstance(item, dict) else None for item in value]
    if roles != expected:
        raise UserError(
            f'{row.where}: key "{key}": of conversations only one turn is supported, roles {_show(expected)}, got '
            f"{_show(roles)}: give texts, the problem in prompt and each answer alone in chosen and rejected"
        )
    return value[-1].get("content")


def _parse_answer(row: Row) -> str | None:
    answer = row.values.get("answer")
    if answer is not None and not isinstance(answer, str):
        raise UserError(f'{row.where}: key "answer": expected a text or null, got {_show(answer)}')
    return answer if answer and answer.strip() else None


def _text(value: object, row: Row, identity: str, key: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{row.where}: key {key}: expected a text, got {_show(value)}")
    if not value.strip():
        raise UserError(f"{row.where}: key {key}: the text is empty (row with id {_show(identity)})")
    return value


def _names(keys: Iterable[str]) -> str:
    return ", ".join(f'"{key}"' for key in keys)


def _show(value: object) -> str:
    """A value as JSON writes it, cut to one short line."""
    shown = json.dumps(value, ensure_ascii=False, default=repr)
    return shown if len(shown) <= 60 else shown[:57] + "..."
