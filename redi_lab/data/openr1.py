"""OpenR1-Math-Raw as a `TraceSource`: the selection of the REDI paper (§3), without its token limits.

    OpenR1Source().load()                          # from the hub, about 8 GB
    OpenR1Source("openr1/train.jsonl").load()      # a local file or folder with the same columns

Rules, in order, each refusal counted under its name:

1. A row's id is its index in the source (from 0). The result is in the order of the paper's shuffle, which is
   `datasets.Dataset.shuffle(seed=42)`, that is `numpy.random.default_rng(42).permutation(num_rows)`. Each row is
   selected for itself, so rows are read in the order of the source and only the selected ones are shuffled.
2. `problem_is_valid` must be "yes" (stripped, any case) and `source` none of `excluded_sources`.
3. Problem, generations and both verdict lists, as long as the generations, must be there. One rule is ours: a row with
   an empty generation is dropped, since nothing can be learnt from it as an answer.
4. A generation is correct iff `llama_verification` and `math_verify_reparsed_answer` are both true; otherwise it is
   incorrect, a missing verdict included. (So a right trace that one verifier rejects can become a negative.)
5. Demonstrations and pairs are chosen by `redi_lab.data.selection.curate`.

The limits on tokens (800 for prompts, 19,000 for responses) are applied after tokenisation, by the data module.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, final

from redi_lab.data.rows import Row, Values
from redi_lab.data.selection import NO_GENERATIONS
from redi_lab.data.table_source import TableSource, one_by_one, peek
from redi_lab.data.traces import Dropped, Generation, Problem
from redi_lab.errors import UserError

NOT_VALID = "problem_is_valid"
NO_PROBLEM = "no problem"
NO_VERDICTS = "verdict lists do not match the generations"
EMPTY_GENERATION = "empty generation"

_VERDICTS = ("llama_verification", "math_verify_reparsed_answer")
_NOT_AN_ANSWER = ("", "proof", "notfound")  # what the column `answer` holds where nothing can be graded
_KNOWN_BY = {"OpenR1-Math-Raw": "correctness", "OpenR1-Math-220k": "correctness_math_verify"}


@dataclass(frozen=True)
class OpenR1Table(TableSource):
    """The rules that OpenR1-Math-Raw and OpenR1-Math-220k share; see `TableSource` for the other attributes.

    Attributes:
        excluded_sources: values of the column `source` whose rows are dropped.
    """

    excluded_sources: Sequence[str] = ()

    name: ClassVar[str]
    columns: ClassVar[tuple[str, ...]]

    @property
    def options(self) -> Sequence[str]:
        """See `TableSource`."""
        return sorted(self.excluded_sources)

    def parse(self, rows: Iterator[Row]) -> Iterator[Problem | Dropped]:
        """See `TableSource.parse`; other columns are refused, and rows that break a rule dropped."""
        first, rows = peek(rows)
        missing = [column for column in self.columns if column not in first.values]
        if missing:
            others = [name for name, column in _KNOWN_BY.items() if name != self.name and column in first.values]
            raise UserError(
                f"{first.where}: not a row of {self.name}: without {', '.join(missing)}; it has"
                f" {', '.join(first.values)}{f' (these are columns of {others[0]})' if others else ''}"
            )
        return one_by_one(rows, lambda row, index: self.problem(row.values, index))

    @abstractmethod
    def problem(self, values: Values, index: int) -> Problem | Dropped:
        """One raw row as a problem, or the rule that drops it."""

    @abstractmethod
    def _generation(self, values: Values, place: int, text: str, verdicts: dict[str, bool | None]) -> Generation:
        """The generation at a place of a row."""

    def _by_rules(self, values: Values, identity: str, verdicts: dict[str, object]) -> Problem | Dropped:
        """The row under the shared rules; `verdicts` has for each verifier what should be a list."""
        source, problem, answer = (values.get(key) for key in ("source", "problem", "answer"))
        texts = as_list(values.get("generations"))
        words = {name: as_list(given) for name, given in verdicts.items()}
        reason = None
        if source in self.excluded_sources:
            reason = f"source {source}"
        elif not isinstance(problem, str) or not problem.strip():
            reason = NO_PROBLEM
        elif not texts:
            reason = NO_GENERATIONS
        elif not all(len(w) == len(texts) and all(isinstance(x, bool | None) for x in w) for w in words.values()):
            reason = NO_VERDICTS
        elif not all(isinstance(text, str) and text.strip() for text in texts):
            reason = EMPTY_GENERATION
        if reason is not None:
            return Dropped(identity, reason, len(texts))
        generations = tuple(
            self._generation(values, place, text, {name: given[place] for name, given in words.items()})
            for place, text in enumerate(texts)
        )
        is_answer = isinstance(answer, str) and answer.strip().lower() not in _NOT_AN_ANSWER
        known = source if isinstance(source, str) else None
        return Problem(identity, str(problem), str(answer) if is_answer else None, generations, known)


@final
@dataclass(frozen=True)
class OpenR1Source(OpenR1Table):
    """The demonstrations and pairs of OpenR1-Math-Raw; see `OpenR1Table` for the other attributes.

    Attributes:
        num_heldout: valid problems with an answer that can be graded, kept for evaluation; 0 in the paper.
        shuffle_seed: seed of the order of the result, and of the choice of held-out problems.
    """

    path: str = "open-r1/OpenR1-Math-Raw"
    excluded_sources: Sequence[str] = ("cn_k12",)
    shuffle_seed: int = 42

    name = "OpenR1-Math-Raw"
    columns = ("problem", "problem_is_valid", "source", "generations", "correctness")
    is_shuffled = True

    @property
    def seed(self) -> int:
        """See `TableSource`."""
        return self.shuffle_seed

    def problem(self, values: Values, index: int) -> Problem | Dropped:
        """See `OpenR1Table.problem`."""
        valid = values.get("problem_is_valid")
        if not isinstance(valid, str) or valid.strip().lower() != "yes":
            return Dropped(str(index), NOT_VALID, len(as_list(values.get("generations"))))
        correctness = values.get("correctness")
        words = correctness if isinstance(correctness, dict) else {}
        return self._by_rules(values, str(index), {name: words.get(name) for name in _VERDICTS})

    def _generation(self, values: Values, place: int, text: str, verdicts: dict[str, bool | None]) -> Generation:
        """With the joint verdict "LandMV"."""
        return Generation(text, all(verdicts.values()), tuple(verdicts.items()))


def as_list(value: object) -> list[Any]:
    """The value, or an empty list in place of anything else."""
    return value if isinstance(value, list) else []
