"""A user's own traces as a `TraceSource`: problems with generations and their verdicts, ready pairs, or chats.

    TraceFileSource("traces.jsonl", num_heldout=100).load()

Rows of problems (other keys are fine and ignored):

    {"problem": "1+1?", "generations": [{"text": "2", "correct": true}, {"text": "3", "correct": false}],
     "answer": "2", "id": "a"}

`correct` is true, false, or null where nobody knows. `answer` (needed only to hold problems out, or to grade), `id`
(default: the number of the row, from 0) and `source` are optional, and so are `finish_reason` and `error` (the kind of
error, of a wrong one) of a generation. Rows of
ready pairs:

    {"prompt": "1+1?", "chosen": "2", "rejected": "3"}

Rows of one completion and its verdict, as chat messages or in TRL's form. Those with the same prompt are one problem:

    {"messages": [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "2"}], "correct": true}
    {"prompt": "1+1?", "completion": "2", "label": true}

A prompt may be a string, one message, [{"role": "user", "content": "1+1?"}], or a conversation that ends with the
user's: a system message first, if any, then user and assistant in turn. A completion may be a string, the
assistant's message, or the user's message and then that; in this form `chosen` and `rejected` need no `prompt`. Nothing
is guessed: a wrong key, type, role or empty completion is refused with its place.

A row or a generation may say how much a completion, and which of its characters, are to count (in a ready pair the
latter as `chosen_spans`, `rejected_spans`, `chosen_steps`, `rejected_steps`):

    {"weight": 2, "spans": [{"start": 0, "end": 5, "weight": 0.5}],
     "steps": [{"start": 0, "end": 5, "right": true, "advantage": 0.1}]}

`weight` is at least 0 and 1 by default; a generation's own counts instead of its row's. `right` and `advantage` are
optional. Spans, and steps, are in order and do not overlap; `end` is exclusive. Null is as good as nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice
from typing import Literal, final

from redi_lab.data.chats import Dialogue
from redi_lab.data.rows import Row, show
from redi_lab.data.table_source import TableSource, one_by_one, peek
from redi_lab.data.traces import Dropped, Generation, Problem, Span, Step, TraceWeights
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
_GROUPED = ("messages", "completions")
_MARKED: dict[Shape, str] = {"generations": 'each of its "generations"', "pairs": '"chosen_{0}" and "rejected_{0}"'}
"""Where these forms have the spans and steps that rows of one completion have under that name."""
_LARGEST = (2 - 2**-23) * 2.0**127  # weights are used in single precision


@final
@dataclass(frozen=True)
class TraceFileSource(TableSource):
    """Traces of a JSONL or Parquet file, a folder, or a hub data set, in the order of the source; see `TableSource`.

    Attributes:
        format: the keys of the rows; "auto" goes by the first row.
    """

    seed: int = 0
    format: Format = "auto"

    @property
    def options(self) -> Sequence[str]:
        """See `TableSource`."""
        return [self.format]

    def parse(self, rows: Iterator[Row]) -> Iterator[Problem | Dropped]:
        """See `TableSource.parse`; a ready pair is a problem with one correct and one incorrect generation.

        Rows of one completion each are kept in memory, and those with the same prompt become one problem.
        """
        first, rows = peek(rows)
        shape = detect_shape(first) if self.format == "auto" else self.format

        def parse(row: Row, index: int) -> Problem:
            return _parse(row, index, shape, has_id=None if shape in _GROUPED else "id" in first.values)

        return _grouped(rows, parse) if shape in _GROUPED else one_by_one(rows, parse)


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


def _parse(row: Row, index: int, shape: Shape, *, has_id: bool | None) -> Problem:
    """A row of one shape as a problem; `has_id`: whether all rows must have an id, or none (None: as each likes)."""
    missing = [key for key in _REQUIRED[shape] if key not in row.values]
    if missing:
        raise UserError(
            f"{row.where}: without the key {_names(missing)}; the keys are {{{_names(row.values)}}}, and every row "
            f"must have {{{_names(_REQUIRED[shape])}}}"
        )
    if has_id not in (None, "id" in row.values):
        raise UserError(f'{row.where}: either all rows have the key "id" or none (see the first row)')
    for key in ("spans", "steps"):
        if shape in _MARKED and row.values.get(key) is not None:
            raise UserError(f'{row.where}: key "{key}": a row of this form has them in {_MARKED[shape].format(key)}')
    identity = row.values.get("id", index)
    if isinstance(identity, bool) or not isinstance(identity, int | str) or identity == "":
        raise row.refusal('"id"', "a non-empty string or an integer", identity)
    reader = _RowReader(row, str(identity))
    parsers = {"generations": reader.problem, "pairs": reader.pair, "messages": reader.chat}
    return parsers.get(shape, reader.completion)()


def _grouped(rows: Iterator[Row], parse: Callable[[Row, int], Problem]) -> Iterator[Problem]:
    """One problem for each prompt, where it first stands, with the id and the answer that its rows give."""
    problems: dict[str, Problem] = {}
    prompts: dict[str, str] = {}
    for index, row in enumerate(rows):
        one = parse(row, index)
        if prompts.setdefault(one.id, one.problem) != one.problem:
            raise UserError(f"{row.where}: the id {show(one.id)} is that of another prompt: give each its own")
        before = problems.get(one.problem, replace(one, generations=()))
        if None not in (before.answer, one.answer) and before.answer != one.answer:
            raise UserError(
                f'{row.where}: key "answer": {show(one.answer)}, but an earlier row with the same prompt (id'
                f" {show(before.id)}) says {show(before.answer)}: correct one of them"
            )
        generations = before.generations + one.generations
        problems[one.problem] = replace(before, answer=before.answer or one.answer, generations=generations)
    yield from problems.values()


@final
@dataclass(frozen=True, slots=True)
class _RowReader:
    """Reads the fields of one row; each error names the place, the key and the value."""

    row: Row
    identity: str

    def problem(self) -> Problem:
        """A problem with its generations."""
        items = self.row.values["generations"]
        if not isinstance(items, list):
            raise self.row.refusal('"generations"', "a list", items)
        return Problem(
            self.identity,
            self._text(self.row.values["problem"], '"problem"'),
            self._answer(),
            tuple(self._generation(item, f'"generations"[{index}]') for index, item in enumerate(items)),
            _word(self.row.values.get("source")),
        )

    def pair(self) -> Problem:
        """A ready pair."""
        prompt = self._prompt() if "prompt" in self.row.values else self._shared_prompt()
        generations = (self._side("chosen", True, prompt), self._side("rejected", False, prompt))
        return Problem(self.identity, prompt, self._answer(), generations, is_ready_pair=True)

    def _side(self, key: str, verdict: bool, prompt: str) -> Generation:
        text = self._completion(key, prompt)
        weights = self._weights(self.row.values, text, side=f"{key}_")
        error = None if verdict else _word(self.row.values.get("error"))
        return Generation(text, verdict, (("correct", verdict),), weights=weights, error=error)

    def chat(self) -> Problem:
        """A question and an answer as messages, with a verdict."""
        messages = self.row.values["messages"]
        if not isinstance(messages, list):
            raise self.row.refusal('"messages"', "a list", messages)
        prompt = self._text(self._messages("messages", ["user", "assistant"])[0], '"messages"[0].content')
        return self._of_one(prompt, "messages", "correct")

    def completion(self) -> Problem:
        """A prompt and a completion with a verdict."""
        return self._of_one(self._prompt(), "completion", "label")

    def _of_one(self, prompt: str, key: str, verdict: str) -> Problem:
        correct = self._verdict(self.row.values[verdict], f'"{verdict}"')
        verdicts = () if correct is None else ((verdict, correct),)
        text = self._completion(key, prompt)
        weights = self._weights(self.row.values, text)
        generation = Generation(text, correct, verdicts, weights=weights, error=_word(self.row.values.get("error")))
        return Problem(self.identity, prompt, self._answer(), (generation,))

    def _generation(self, item: object, key: str) -> Generation:
        if not isinstance(item, dict) or "text" not in item or "correct" not in item:
            raise self.row.refusal(key, 'an object with "text" and "correct"', item)
        correct = self._verdict(item["correct"], f"{key}.correct")
        reason = item.get("finish_reason")
        if reason is not None and not isinstance(reason, str):
            raise self.row.refusal(f"{key}.finish_reason", "a string or null", reason)
        verdicts = () if correct is None else (("correct", correct),)
        text = self._text(item["text"], f"{key}.text")
        weights = self._weights(item, text, f"{key}.{{}}")
        return Generation(text, correct, verdicts, reason, weights=weights, error=_word(item.get("error")))

    def _weights(self, values: Mapping[str, object], text: str, form: str = '"{}"', side: str = "") -> TraceWeights:
        """The weights of one completion.

        Args:
            values: what the completion has its columns in: the row, or one of its generations.
            text: the completion.
            form: how a key of `values` is called in errors.
            side: what the keys of spans and steps begin with, such as "chosen_".
        """
        own, key = values.get("weight"), form.format("weight")
        if own is None:
            own, key = self.row.values.get("weight"), '"weight"'
        spans, steps = (
            list(self._stretches(form.format(side + name), values.get(side + name), text))
            for name in ("spans", "steps")
        )
        return TraceWeights(
            1.0 if own is None else self._number(own, key, least=0.0),
            tuple(Span(start, end, self._number(more.get("weight"), f"{at}.weight")) for at, start, end, more in spans),
            tuple(Step(start, end, *self._judgement(more, at)) for at, start, end, more in steps),
        )

    def _stretches(self, key: str, value: object, text: str) -> Iterator[tuple[str, int, int, Mapping[str, object]]]:
        """Key, start, end and values of each stretch of the text."""
        if not isinstance(value, list | None):
            raise self.row.refusal(key, "a list", value)
        start = end = 0
        for index, item in enumerate(value or ()):
            at = f"{key}[{index}]"
            if not isinstance(item, dict):
                raise self.row.refusal(at, 'an object with "start" and "end"', item)
            start = self._character(item.get("start"), f"{at}.start", end, len(text) - 1)
            end = self._character(item.get("end"), f"{at}.end", start + 1, len(text))
            yield at, start, end, item

    def _character(self, value: object, key: str, least: int, most: int) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise self.row.refusal(key, f"a place in the text, from {least} to {most}", value)
        return value

    def _number(self, value: object, key: str, least: float = -_LARGEST) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= _LARGEST:
            raise self.row.refusal(key, "a finite number" + (" of at least 0" if least == 0 else ""), value)
        return float(value)

    def _judgement(self, step: Mapping[str, object], at: str) -> tuple[bool | None, float | None]:
        """What is known of a step."""
        right, advantage = self._verdict(step.get("right"), f"{at}.right"), step.get("advantage")
        return right, None if advantage is None else self._number(advantage, f"{at}.advantage")

    def _prompt(self) -> str:
        """A text, or a conversation that ends with a turn of the user."""
        value = self.row.values["prompt"]
        if not isinstance(value, list):
            return self._text(value, '"prompt"')
        is_led = bool(value) and isinstance(value[0], dict) and value[0].get("role") == "system"
        roles = islice(cycle(("user", "assistant")), (len(value) - is_led) | 1)
        contents = self._messages("prompt", [*(["system"] if is_led else []), *roles])
        turns = [self._text(content, f'"prompt"[{place}].content') for place, content in enumerate(contents)]
        return turns[0] if len(turns) == 1 else Dialogue(turns[is_led:], turns[0] if is_led else None)

    def _shared_prompt(self) -> str:
        """The user's message of `chosen`, where both sides bring it with them."""
        sides = (self.row.values["chosen"], self.row.values["rejected"])
        if not all(isinstance(side, list) and len(side) == 2 for side in sides):
            raise UserError(
                f'{self.row.where}: without the key "prompt": add it, or give chosen and rejected as two messages,'
                " roles user and assistant"
            )
        return self._text(self._messages("chosen", ["user", "assistant"])[0], '"chosen"[0].content')

    def _completion(self, key: str, prompt: str) -> str:
        """The completion as a string, as the assistant's message, or as the user's message and then that."""
        value = self.row.values[key]
        if isinstance(value, list) and len(value) == 2:
            question, value = self._messages(key, ["user", "assistant"])
            if question != prompt:
                raise UserError(
                    f'{self.row.where}: key "{key}": the message of the user is not the prompt of this row; make them'
                    " equal"
                )
        elif isinstance(value, list):
            value = self._messages(key, ["assistant"])[0]
        return self._text(value, f'"{key}"')

    def _messages(self, key: str, expected: list[str]) -> list[object]:
        """The contents of a conversation with exactly the expected roles."""
        value = self.row.values[key]
        assert isinstance(value, list)
        messages = [item if isinstance(item, dict) else {} for item in value]
        roles = [message.get("role") for message in messages]
        if roles != expected:
            raise UserError(
                f'{self.row.where}: key "{key}": must have the roles {show(expected)}, got {show(roles)}: drop the'
                " other messages; data.prompt_template can hold what a system message says"
            )
        return [message.get("content") for message in messages]

    def _answer(self) -> str | None:
        answer = self.row.values.get("answer")
        if answer is not None and not isinstance(answer, str):
            raise self.row.refusal('"answer"', "a string or null", answer)
        return answer if answer and answer.strip() else None

    def _verdict(self, value: object, key: str) -> bool | None:
        if value is not None and not isinstance(value, bool):
            raise self.row.refusal(key, "true, false or null", value)
        return value

    def _text(self, value: object, key: str) -> str:
        if not isinstance(value, str):
            raise self.row.refusal(key, "a string", value)
        if not value.strip():
            raise UserError(f"{self.row.where}: key {key}: the string is empty (row with id {show(self.identity)})")
        return value


def _word(value: object) -> str | None:
    """What only serves people to tell rows apart: nothing depends on it, so another type is no mistake."""
    return value if isinstance(value, str) else None


def _names(keys: Iterable[str]) -> str:
    return ", ".join(f'"{key}"' for key in keys)
