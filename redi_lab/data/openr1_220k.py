"""OpenR1-Math-220k as a `TraceSource`; not the corpus of the paper, which is OpenR1-Math-Raw with other columns.

    OpenR1Math220kSource().load()                     # from the hub, configuration "default"
    OpenR1Math220kSource("220k/train.jsonl").load()   # a local file or folder with the same columns

Here `correctness_math_verify` is there for every generation, `correctness_llama` is null in most rows (that verifier
was not asked), and so may be `finish_reasons`. A generation is right if every verifier that was asked accepts it, wrong
if every one rejects it and it is complete, and otherwise unknown: used neither way in training.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import final

from redi_lab.data.openr1 import Words, check_columns, parse_shared
from redi_lab.data.pairing import Negatives
from redi_lab.data.rows import Row, Values
from redi_lab.data.table_source import TableSource, one_by_one, peek
from redi_lab.data.traces import Dropped, Generation, Problem
from redi_lab.data.verdicts import decide, truncation

_COLUMNS = ("problem", "source", "uuid", "generations", "correctness_math_verify", "correctness_llama")
_ALWAYS_ASKED = "math_verify"
_VERIFIERS = {_ALWAYS_ASKED: "correctness_math_verify", "llama": "correctness_llama"}


@final
class OpenR1Math220kSource(TableSource):
    """The demonstrations and pairs of OpenR1-Math-220k, in the order of the source; see `TableSource`.

    Args:
        excluded_sources: values of the column `source` whose rows are dropped.
    """

    def __init__(
        self,
        path: str = "open-r1/OpenR1-Math-220k",
        split: str = "train",
        revision: str | None = None,
        excluded_sources: Sequence[str] = (),
        num_heldout: int = 0,
        seed: int = 0,
        streaming: bool = False,
        negatives: Negatives = "first",
    ) -> None:
        self._excluded = tuple(excluded_sources)
        super().__init__(
            path, split, revision, num_heldout, seed, sorted(self._excluded), streaming=streaming, negatives=negatives
        )

    def parse(self, rows: Iterator[Row]) -> Iterator[Problem | Dropped]:
        """See `TableSource.parse`; other columns are refused, and rows that break a rule dropped."""
        first, rows = peek(rows)
        check_columns(first, _COLUMNS, "OpenR1-Math-220k", other="OpenR1-Math-Raw", column="correctness")
        return one_by_one(rows, lambda row, index: parse_row(row.values, index, self._excluded))


def parse_row(values: Values, index: int, excluded_sources: Collection[str]) -> Problem | Dropped:
    """One raw row as a problem, or the rule that drops it. Its id is its uuid, or else its index."""
    uuid, reasons, texts = (values.get(key) for key in ("uuid", "finish_reasons", "generations"))
    asked = {
        name: values.get(column)
        for name, column in _VERIFIERS.items()
        if name == _ALWAYS_ASKED or values.get(column) is not None
    }
    has_reasons = (
        isinstance(reasons, list) and isinstance(texts, list) and len(reasons) == len(texts)
    )  # null in many rows

    def generation(place: int, text: str, verdicts: Words) -> Generation:
        reason = reasons[place] if has_reasons else None  # type: ignore[index]
        ungraded = Generation(text, None, verdicts, None if reason is None else str(reason))
        decision = decide(ungraded, is_truncated=truncation(ungraded) is not None, has_answer=True)
        return replace(ungraded, correct=decision.correct)

    identity = uuid if isinstance(uuid, str) and uuid else str(index)
    return parse_shared(values, identity, excluded_sources, asked, generation)
