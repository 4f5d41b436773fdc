"""The records that travel from raw traces to training: what was read, what was selected, and where each row went.

A *trace* is one generation of a teacher with a verdict. Readers yield `Problem` (or `Dropped` for a row that they
refuse), `redi_lab.data.selection` turns those into demonstrations and pairs, and a `TraceSource` does both:

    corpus = TraceFileSource("traces.jsonl").load()
    corpus.demonstrations[0].completion, corpus.pairs[0].rejected, corpus.counts.as_dict()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol, Self, final


@final
@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` (exclusive) of a completion, and a factor on their log-probs, of any sign."""

    start: int
    end: int
    weight: float


@final
@dataclass(frozen=True, slots=True)
class Step:
    """Characters `start` to `end` (exclusive) of a completion, and what is known of them: a verdict, an advantage."""

    start: int
    end: int
    right: bool | None = None
    advantage: float | None = None


@final
@dataclass(frozen=True, slots=True)
class TraceWeights:
    """What the data say about how much a completion, and which parts of it, are to count.

    Attributes:
        weight: factor on its term of the loss, at least 0.
        spans: in order and without overlap; see the setting `data.token_weights` for what becomes of them.
        steps: likewise.
    """

    weight: float = 1.0
    spans: tuple[Span, ...] = ()
    steps: tuple[Step, ...] = ()

    def as_columns(self, side: str = "") -> dict[str, Any]:
        """As columns of a table, whose names begin with `side`, such as "chosen_"."""
        return {f"{side}{name}": value for name, value in asdict(self).items()}

    @classmethod
    def of_columns(cls, row: Mapping[str, Any], side: str = "") -> Self:
        """What `as_columns` made."""
        spans, steps = (row[f"{side}{name}"] for name in ("spans", "steps"))
        return cls(row[f"{side}weight"], tuple(Span(**span) for span in spans), tuple(Step(**step) for step in steps))


UNWEIGHTED = TraceWeights()


@final
@dataclass(frozen=True, slots=True)
class Generation:
    """One answer of a teacher, and what the corpus says of it.

    Attributes:
        text: the completion.
        correct: None where nobody knows: such a trace is neither positive nor negative.
        verdicts: (verifier, its word) for every verifier that was asked; None where it could not tell.
        finish_reason: why the teacher stopped, where the corpus says so: "stop", "length", …
        unknown_reason: why a verifier could not tell, where it says so.
        weights: how much it is to count.
        error: the kind of error that makes it wrong, where the source says so.
    """

    text: str
    correct: bool | None
    verdicts: tuple[tuple[str, bool | None], ...] = ()
    finish_reason: str | None = None
    unknown_reason: str | None = None
    weights: TraceWeights = UNWEIGHTED
    error: str | None = None


@final
@dataclass(frozen=True, slots=True)
class Problem:
    """A problem with all its generations, in the order in which the source gives them.

    Attributes:
        id: unique within a source.
        problem: its text.
        answer: the gold answer, where there is one.
        generations: the teacher's.
        source: which collection of problems it comes from, where the corpus says so.
        is_ready_pair: the row is a pair of two generations, whose chosen one other rows may share.
    """

    id: str
    problem: str
    answer: str | None
    generations: tuple[Generation, ...]
    source: str | None = None
    is_ready_pair: bool = False

    def as_row(self) -> dict[str, Any]:
        """As a row of `data=jsonl`, with the weights of its generations."""
        columns = {name: getattr(self, name) for name in ("id", "problem", "answer", "source")}
        generations = [
            {name: getattr(one, name) for name in ("text", "correct", "finish_reason", "error")} | asdict(one.weights)
            for one in self.generations
        ]
        return columns | {"generations": generations}


@final
@dataclass(frozen=True, slots=True)
class Dropped:
    """A row that a reader refuses by a rule; the reason is the name under which it is counted."""

    id: str
    reason: str
    num_generations: int = 0
    """How many generations go with it."""


@final
@dataclass(frozen=True, slots=True)
class Demonstration:
    """One row of D_SFT: a problem and a correct completion."""

    id: str
    problem: str
    completion: str
    weights: TraceWeights = UNWEIGHTED
    pass_rate: float | None = None
    """See `pass_rate`; None where the source does not say."""


@final
@dataclass(frozen=True, slots=True)
class Negative:
    """A problem and an incorrect completion, for objectives that need no pairs."""

    id: str
    problem: str
    completion: str
    weights: TraceWeights = UNWEIGHTED
    pass_rate: float | None = None
    """See `pass_rate`; None where the source does not say."""
    error: str | None = None
    """See `Generation`."""


@final
@dataclass(frozen=True, slots=True)
class Pair:
    """One row of D_Pref: a problem, a correct and an incorrect completion."""

    id: str
    problem: str
    chosen: str
    rejected: str
    chosen_weights: TraceWeights = UNWEIGHTED
    rejected_weights: TraceWeights = UNWEIGHTED
    pass_rate: float | None = None
    """See `pass_rate`; None where the source does not say."""
    error: str | None = None
    """See `Generation`; of the incorrect completion."""

    @property
    def weight(self) -> float:
        """Of the pair: the mean of its two."""
        return (self.chosen_weights.weight + self.rejected_weights.weight) / 2


@final
@dataclass(frozen=True, slots=True)
class HeldOut:
    """A problem kept for evaluation: it, and every row with the same text, is absent from training."""

    id: str
    problem: str
    answers: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True)
class SelectionCounts:
    """Where every row that was read went.

    Attributes:
        rows_read: rows of the source.
        dropped: reason → rows that gave nothing.
        demonstrations: rows that gave a demonstration.
        pairs: rows that gave a pair.
        without_pair: reason → rows in use that gave no pair.
        held_out: rows kept for evaluation.
        without_demonstration: reason → rows in use that gave no demonstration, such as ready pairs that share their
            chosen completion; empty for rows of problems with generations.
    """

    rows_read: int
    dropped: dict[str, int]
    demonstrations: int
    pairs: int
    without_pair: dict[str, int]
    held_out: int
    without_demonstration: dict[str, int] = field(default_factory=dict)

    def check(self) -> None:
        """Check that every row is counted exactly once.

        Raises:
            ValueError: if the numbers do not add up; this is a defect of the code that counted, never of the data.
        """
        in_use = self.demonstrations + sum(self.without_demonstration.values())
        accounted = sum(self.dropped.values()) + self.held_out + in_use
        if accounted != self.rows_read:
            raise ValueError(f"{self.rows_read} rows were read but {accounted} are accounted for: {self.as_dict()}")
        paired = self.pairs + sum(self.without_pair.values())
        if paired != in_use:
            raise ValueError(f"{in_use} rows are in use but {paired} gave a pair or a reason: {self.as_dict()}")

    def as_dict(self) -> dict[str, Any]:
        """The counts as plain numbers and dictionaries, ready for JSON."""
        return asdict(self)


@final
@dataclass(frozen=True, slots=True)
class TraceCorpus:
    """Everything that a source gives: training rows, held-out problems, and the account of all rows.

    Attributes:
        source: where it came from, for people (a path, or `hub-id@commit`).
        demonstrations: D_SFT.
        pairs: D_Pref.
        held_out: problems for evaluation, disjoint by text from the training rows.
        counts: where every row went.
        unpaired_negatives: incorrect completions where the source gives them apart from the pairs.
    """

    source: str
    demonstrations: tuple[Demonstration, ...]
    pairs: tuple[Pair, ...]
    held_out: tuple[HeldOut, ...]
    counts: SelectionCounts
    unpaired_negatives: tuple[Negative, ...] | None = None

    @property
    def negatives(self) -> tuple[Negative, ...]:
        """Incorrect completions, each once: those given apart, else those of the pairs."""
        if self.unpaired_negatives is not None:
            return self.unpaired_negatives
        return tuple(
            dict.fromkeys(
                Negative(p.id, p.problem, p.rejected, p.rejected_weights, p.pass_rate, p.error) for p in self.pairs
            )
        )


def pass_rate(verdicts: Iterable[bool | None]) -> float | None:
    """Share of right traces among the graded ones of a problem; None if no verdict is known."""
    judged = [verdict for verdict in verdicts if verdict is not None]
    return sum(judged) / len(judged) if judged else None


class TraceSource(Protocol):
    """Anything that gives a corpus of traces."""

    def digest(self) -> str:
        """The sha256 (hexadecimal) of the content and of the options that shape the result; cheaper than `load`."""

    def load(self, on_progress: Callable[[int, int | None], None] | None = None) -> TraceCorpus:
        """Read, select and account for all rows.

        Args:
            on_progress: called with the rows done and the rows in all, where that is known.
        """
