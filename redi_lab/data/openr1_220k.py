"""OpenR1-Math-220k as a `TraceSource`; not the corpus of the paper, which is OpenR1-Math-Raw with other columns.

    OpenR1Math220kSource().load()                     # from the hub, configuration "default"
    OpenR1Math220kSource("220k/train.jsonl").load()   # a local file or folder with the same columns

Here `correctness_math_verify` is there for every generation, `correctness_llama` is null in most rows (that verifier
was not asked), and so may be `finish_reasons`. A generation is right if every verifier that was asked accepts it, wrong
if every one rejects it and it is complete, and otherwise unknown: used neither way in training.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

from redi_lab.data.openr1 import OpenR1Table, as_list
from redi_lab.data.rows import Values
from redi_lab.data.traces import Dropped, Generation, Problem
from redi_lab.data.verdicts import decide, truncation


@final
@dataclass(frozen=True)
class OpenR1Math220kSource(OpenR1Table):
    """The demonstrations and pairs of OpenR1-Math-220k, in the order of the source; see `OpenR1Table`."""

    path: str = "open-r1/OpenR1-Math-220k"
    seed: int = 0

    name = "OpenR1-Math-220k"
    columns = ("problem", "source", "uuid", "generations", "correctness_math_verify", "correctness_llama")

    def problem(self, values: Values, index: int) -> Problem | Dropped:
        """See `OpenR1Table.problem`. A row's id is its uuid, or else its index."""
        uuid, asked = values.get("uuid"), {"math_verify": values.get("correctness_math_verify")}
        if values.get("correctness_llama") is not None:
            asked["llama"] = values["correctness_llama"]
        return self._by_rules(values, uuid if isinstance(uuid, str) and uuid else str(index), asked)

    def _generation(self, values: Values, place: int, text: str, verdicts: dict[str, bool | None]) -> Generation:
        reasons = as_list(values.get("finish_reasons"))  # null in many rows
        reason = reasons[place] if len(reasons) == len(as_list(values["generations"])) else None
        ungraded = Generation(text, None, tuple(verdicts.items()), None if reason is None else str(reason))
        decision = decide(ungraded, is_truncated=truncation(ungraded) is not None, has_answer=True)
        return replace(ungraded, correct=decision.correct)
