"""A user's own traces as a `TraceSource`: problems with generations and their verdicts, ready pairs, or chats.

    TraceFileSource("traces.jsonl", num_heldout=100).load()

Rows of problems (other keys are fine and ignored):

    {"problem": "1+1?", "generations": [{"text": "2", "correct": true}, {"text": "3", "correct": false}],
     "answer": "2", "id": "a"}

`correct` is true, false, or null where nobody knows. `answer` (needed only to hold problems out, or to grade), `id`
(default: the number of the row, from 0) and `source` are optional, and so is `finish_reason` of a generation. Rows of
ready pairs:

    {"prompt": "1+1?", "chosen": "2", "rejected": "3"}

Rows of one completion and its verdict, as chat messages or in TRL's form. Those with the same prompt are one problem:

    {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}], "correct": true}
    {"prompt": "1+1?", "completion": "2", "label": true}

A prompt may be text or one message, [{"role": "user", "content": "1+1?"}]. A completion may be text, the assistant's
message, or the user's message and then that; in this form `chosen` and `rejected` need no `prompt`. Nothing is guessed:
a wrong key, type, role or empty completion is refused with its place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Literal, final

from redi_lab.data.rows import OnProgress, Row, RowTable, open_rows, tracked_rows
from redi_lab.data.selection import curate
from redi_lab.data.traces import Dropped, Generation, Problem, TraceCorpus
from redi_lab.errors import UserError

Shape = Literal["generations", "pairs", "messages", "completions"]
Format = Literal["auto"] | Shape

_REQUIRED: dict[Shape, tuple[str, ...]] = {
    "generations": ("problem", "generations"),
    "pairs": ("chosen", "rejected"),
    "messages": ("messages", "correct"),
    "completions": ("prompt", "completion", "label"),
}
_SHOWN = {"pairs": ("prompt", "chosen", "rejected")}  # for people: only two-message sides can do without the prompt


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

    def _shape(self) -> Shape:
        return detect_shape(next(self.table().rows())) if self.format == "auto" else self.format


def detect_shape(row: Row) -> Shape:
    """Which form a row has, by its keys.

    Raises:
        UserError: the keys fit none or several.
    """
    found = [shape for shape, keys in _REQUIRED.items() if all(key in row.values for key in keys)]
    if len(found) == 1:
        return found[0]
    if found:
        raise UserError(f"{row.where}: the keys fit several forms: set data.source.format to {' or '.join(found)}")
    wanted = " or ".join("{" + _names(_SHOWN.get(shape, keys)) + "}" for shape, keys in _REQUIRED.items())
    raise UserError(f"{row.where}: the keys are {{{_names(row.values)}}}, expected {wanted}: rename or add them")


def parse_rows(rows: Iterator[Row], shape: Shape) -> Iterator[Problem]:
    """Problems of rows of one shape; a ready pair is a problem with one correct and one incorrect generation.

    Rows of one completion each are kept in memory, and those with the same prompt become one problem.

    Raises:
        UserError: a row has another shape, a wrong type, an empty text, or the id of an earlier row; or rows with the
            same prompt have different answers.
    """
    if shape in ("messages", "completions"):
        return _grouped(rows, shape)
    return _one_a_row(rows, shape)


def _grouped(rows: Iterator[Row], shape: Shape) -> Iterator[Problem]:
    """One problem for each prompt, where it first stands, with the id and the answer that its rows give."""
    problems: dict[str, Problem] = {}
    prompts: dict[str, str] = {}
    for index, row in enumerate(rows):
        _require_keys(row, shape)
        identity = _parse_id(row) if "id" in row.values else str(index)
        prompt, generation, answer = _parse_completion(row, identity, shape)
        if prompts.setdefault(identity, prompt) != prompt:
            raise UserError(f"{row.where}: the id {_show(identity)} is that of another prompt: give each its own")
        before = problems.get(prompt, Problem(identity, prompt, answer, ()))
        if None not in (before.answer, answer) and before.answer != answer:
            raise UserError(
                f'{row.where}: key "answer": {_show(answer)}, but an earlier row with the same prompt (id'
                f" {_show(before.id)}) says {_show(before.answer)}: correct one of them"
            )
        generations = (*before.generations, generation)
        problems[prompt] = replace(before, answer=before.answer or answer, generations=generations)
    yield from problems.values()


def _parse_completion(row: Row, identity: str, shape: Shape) -> tuple[str, Generation, str | None]:
    """Prompt, completion with its verdict, and answer of a row of one completion."""
    if shape == "messages":
        if not isinstance(row.values["messages"], list):
            raise UserError(f'{row.where}: key "messages": expected a list, got {_show(row.values["messages"])}')
        prompt = _text(_messages(row, "messages", ["user", "assistant"])[0], row, identity, '"messages"[0].content')
        key, verdict = "messages", "correct"
    else:
        prompt, key, verdict = _prompt(row, identity), "completion", "label"
    correct = _verdict(row.values[verdict], row, f'"{verdict}"')
    text = _text(_completion_message(row, key, prompt), row, identity, f'"{key}"')
    return prompt, Generation(text, correct, () if correct is None else ((verdict, correct),)), _parse_answer(row)


def _one_a_row(rows: Iterator[Row], shape: Shape) -> Iterator[Problem]:
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


def _require_keys(row: Row, shape: Shape) -> None:
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
    correct = _verdict(item["correct"], row, f"{key}.correct")
    reason = item.get("finish_reason")
    if reason is not None and not isinstance(reason, str):
        raise UserError(f"{row.where}: key {key}.finish_reason: expected a text or null, got {_show(reason)}")
    text = _text(item["text"], row, identity, f"{key}.text")
    return Generation(text, correct, () if correct is None else (("correct", correct),), reason)


def _verdict(value: object, row: Row, key: str) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise UserError(f"{row.where}: key {key}: expected true, false or null, got {_show(value)}")
    return value


def _parse_pair(row: Row, identity: str) -> Problem:
    prompt = _prompt(row, identity) if "prompt" in row.values else _shared_prompt(row, identity)
    chosen, rejected = (
        _text(_completion_message(row, key, prompt), row, identity, f'"{key}"') for key in ("chosen", "rejected")
    )
    generations = tuple(
        Generation(text, verdict, (("correct", verdict),)) for text, verdict in ((chosen, True), (rejected, False))
    )
    return Problem(identity, prompt, _parse_answer(row), generations)


def _prompt(row: Row, identity: str) -> str:
    value = row.values["prompt"]
    content = _messages(row, "prompt", ["user"])[0] if isinstance(value, list) else value
    return _text(content, row, identity, '"prompt"')


def _shared_prompt(row: Row, identity: str) -> str:
    """The user's message of `chosen`, where both sides bring it with them."""
    chosen, rejected = row.values["chosen"], row.values["rejected"]
    if not all(isinstance(side, list) and len(side) == 2 for side in (chosen, rejected)):
        raise UserError(
            f'{row.where}: without the key "prompt": add it, or give chosen and rejected as two messages, roles user'
            " and assistant"
        )
    return _text(_messages(row, "chosen", ["user", "assistant"])[0], row, identity, '"chosen"[0].content')


def _completion_message(row: Row, key: str, prompt: str) -> object:
    """The completion in any of its forms: a text, the assistant's message, or the prompt's message and then that."""
    value = row.values[key]
    if not isinstance(value, list):
        return value
    if len(value) != 2:
        return _messages(row, key, ["assistant"])[0]
    question, answer = _messages(row, key, ["user", "assistant"])
    if question != prompt:
        raise UserError(f'{row.where}: key "{key}": the message of the user is not the prompt of this row')
    return answer


def _messages(row: Row, key: str, expected: list[str]) -> list[object]:
    """The contents of a conversation with exactly the expected roles."""
    value = row.values[key]
    assert isinstance(value, list)
    roles = [item.get("role") if isinstance(item, dict) else None for item in value]
    if roles != expected:
        raise UserError(
            f'{row.where}: key "{key}": of conversations only one turn is supported, roles {_show(expected)}, got '
            f"{_show(roles)}: drop the other messages; what a system message says can stand in data.prompt_template"
        )
    return [item.get("content") for item in value]


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
