"""How much a row says that a completion, and which of its characters, are to count: `weight`, `spans` and `steps`.

    {"weight": 2, "spans": [{"start": 0, "end": 5, "weight": 0.5}],
     "steps": [{"start": 0, "end": 5, "right": true, "advantage": 0.1}]}

`weight` is at least 0 and 1 by default; a generation's own counts instead of its row's. `right` and `advantage` are
optional. Spans, and steps, are in order and do not overlap; `end` is exclusive. Null is as good as nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from redi_lab.data.rows import Row
from redi_lab.data.traces import Span, Step, TraceWeights

_LARGEST = (2 - 2**-23) * 2.0**127  # weights are used in single precision


def read_weights(row: Row, values: Mapping[str, object], text: str, form: str = '"{}"', side: str = "") -> TraceWeights:
    """The weights of one completion.

    Args:
        row: the whole row.
        values: what the completion has its columns in: the row, or one of its generations.
        text: the completion.
        form: how a key of `values` is called in errors.
        side: what the keys of spans and steps begin with, such as "chosen_".

    Raises:
        UserError: a value is not as documented; the message names place, key and value.
    """
    own, key = values.get("weight"), form.format("weight")
    if own is None:
        own, key = row.values.get("weight"), '"weight"'
    spans, steps = (
        _stretches(row, form.format(side + name), values.get(side + name), text) for name in ("spans", "steps")
    )
    return TraceWeights(
        1.0 if own is None else _number(row, key, own, least=0.0),
        tuple(Span(start, end, _number(row, f"{at}.weight", more.get("weight"))) for at, start, end, more in spans),
        tuple(Step(start, end, _right(row, at, more), _advantage(row, at, more)) for at, start, end, more in steps),
    )


def _stretches(row: Row, key: str, value: object, text: str) -> Iterator[tuple[str, int, int, Mapping[str, object]]]:
    """Key, start, end and values of each stretch of the text."""
    if not isinstance(value, list | None):
        raise row.refusal(key, "a list", value)
    start = end = 0
    for index, item in enumerate(value or ()):
        at = f"{key}[{index}]"
        if not isinstance(item, dict):
            raise row.refusal(at, 'an object with "start" and "end"', item)
        start = _character(row, f"{at}.start", item.get("start"), end, len(text) - 1)
        end = _character(row, f"{at}.end", item.get("end"), start + 1, len(text))
        yield at, start, end, item


def _character(row: Row, key: str, value: object, least: int, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise row.refusal(key, f"a place in the text, from {least} to {most}", value)
    return value


def _number(row: Row, key: str, value: object, least: float = -_LARGEST) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value <= _LARGEST:
        raise row.refusal(key, "a finite number" + (" of at least 0" if least == 0 else ""), value)
    return float(value)


def _right(row: Row, at: str, step: Mapping[str, object]) -> bool | None:
    right = step.get("right")
    if not isinstance(right, bool | None):
        raise row.refusal(f"{at}.right", "true, false or null", right)
    return right


def _advantage(row: Row, at: str, step: Mapping[str, object]) -> float | None:
    advantage = step.get("advantage")
    return None if advantage is None else _number(row, f"{at}.advantage", advantage)
