"""Forward and backward reasoning as three tasks of equal weight (RevThink, arXiv 2411.19865).

    tasks = ThreeTasks(prompts)
    tasks.add("0", read_row(row, keys), verdict)
    equal_weights(lengths)  # {"forward": 0.9, ...}

A row holds a question Q, a trace R_f of it, a backward question Q_b, a trace R_b of that, and whether R_b is consistent
with Q. The loss is ⅓ [CE(Q → R_f) + CE(Q → Q_b) + CE(Q_b → R_b)], each a mean over the tokens of its task. A wrong R_f
drops its row; without a consistent R_b, the forward part alone is kept (the paper drops those rows, too). Inconsistent
traces become negatives of their backward question.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, final

from redi_lab.data.rows import Row
from redi_lab.errors import UserError
from redi_lab.grading.grader import Verdict

Task = Literal["forward", "backward_question", "backward"]
TASKS: tuple[Task, ...] = ("forward", "backward_question", "backward")
INCONSISTENT = "inconsistent backward trace"
_REQUIRED = ("problem", "completion", "backward_problem", "backward_completion", "consistent")


class ReverseRow(NamedTuple):
    """A row as it is read; what is not known of it is None."""

    problem: str
    completion: str
    answer: str | None
    backward_problem: str | None
    backward_completion: str | None
    consistent: bool | None


def read_row(row: Row, keys: Mapping[str, str]) -> ReverseRow:
    """Read the columns of a row.

    Args:
        row: as it stands in the file.
        keys: column by field of `ReverseRow`; that of `answer` need not be there.

    Raises:
        UserError: a column is missing, or holds something else.
    """
    for name in _REQUIRED:
        if keys[name] not in row.values:
            raise UserError(
                f"{row.where}: without the key {keys[name]}; the row has {', '.join(row.values) or 'no keys'} (name it"
                f" by {name}=KEY; what is not known is null)"
            )
    texts = {name: _text(row, key, name) for name, key in keys.items() if name != "consistent"}
    consistent = row.values[keys["consistent"]]
    if consistent is not None and not isinstance(consistent, bool):
        raise row.refusal(keys["consistent"], "true, false or null", consistent)
    return ReverseRow(**texts, consistent=consistent)


def _text(row: Row, key: str, name: str) -> Any:
    value, may_miss = row.values.get(key), name not in ("problem", "completion")
    if (value is None and may_miss) or (isinstance(value, str) and value.strip()):
        return value
    raise row.refusal(key, "a string that is not empty" + (" or null" if may_miss else ""), value)


@final
@dataclass
class ThreeTasks:
    """Rows sorted into tasks, each row counted once.

    Attributes:
        prompts: by task the text of a prompt, with {problem} in it.
        examples: by task (prompt, completion) → id; what several rows have in common is there once.
        inconsistent: by backward prompt its inconsistent traces.
        dropped: reason → rows that gave nothing.
        forward_alone: reason → rows of which no backward part was kept.
        num_rows: rows in all.
    """

    prompts: Mapping[Task, str]
    examples: dict[Task, dict[tuple[str, str], str]] = field(default_factory=lambda: {task: {} for task in TASKS})
    inconsistent: dict[str, dict[str, None]] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)
    forward_alone: Counter[str] = field(default_factory=Counter)
    num_rows: int = 0

    @property
    def num_whole(self) -> int:
        """Rows of which all parts were kept."""
        return self.num_rows - self.dropped.total() - self.forward_alone.total()

    def add(self, name: str, row: ReverseRow, verdict: Verdict | None) -> None:
        """Sort one row.

        Args:
            name: of the row, which no other has.
            row: its columns.
            verdict: of its forward trace; None where nobody was asked, which is believed to be right.
        """
        self.num_rows += 1
        if verdict not in (None, Verdict.RIGHT):
            self.dropped[f"{verdict} forward trace"] += 1
            return
        self._keep("forward", name, row.problem, row.completion)
        if row.backward_problem is None or row.backward_completion is None:
            self.forward_alone["no backward question or trace"] += 1
        elif row.consistent is None:
            self.forward_alone["consistency unknown"] += 1
        elif not row.consistent:
            self.forward_alone[INCONSISTENT] += 1
            prompt = self.prompts["backward"].replace("{problem}", row.backward_problem)
            self.inconsistent.setdefault(prompt, {})[row.backward_completion] = None
        else:
            self._keep("backward_question", name, row.problem, row.backward_problem)
            self._keep("backward", name, row.backward_problem, row.backward_completion)

    def _keep(self, task: Task, name: str, problem: str, completion: str) -> None:
        self.examples[task].setdefault((self.prompts[task].replace("{problem}", problem), completion), f"{name}/{task}")

    def contrasts(self) -> Iterator[tuple[str, list[str], list[str]]]:
        """Backward prompts with their consistent and their inconsistent traces, where there are both."""
        consistent: dict[str, list[str]] = {}
        for prompt, completion in self.examples["backward"]:
            consistent.setdefault(prompt, []).append(completion)
        for prompt, wrong in self.inconsistent.items():
            if prompt in consistent:
                yield prompt, consistent[prompt], list(wrong)


def equal_weights(lengths: Mapping[Task, int]) -> dict[Task, float]:
    """The weight of each task's sequences under which all tasks have the same share of a sum over tokens.

    Args:
        lengths: by task the length of all its completions, above 0. Weighted lengths add up to the same as these.
    """
    total = sum(lengths.values())
    return {task: total / (len(lengths) * length) for task, length in lengths.items()}
