"""One problem with all its generations on its way to demonstrations and pairs; each step counts what it drops.

    curator = RowCurator(RowRules())
    result = curator.curate(7, problem)  # or a row that its reader dropped
    result.demonstrations, result.pairs, result.generations

It is pure and knows one row at a time, so rows can be curated in any process. Every generation of the row ends under
exactly one name in `RowResult.generations`: `USED`, or why it was not.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, final

import numpy as np

from redi_lab.curation.decontamination import NgramIndex
from redi_lab.curation.filters import Duplicates, Limits, ProblemKey, problem_key, repeated_texts
from redi_lab.curation.pairing import PairOrder, Trace, choose_pairs, common_prefix
from redi_lab.data.selection import NO_CORRECT, NO_GENERATIONS, NO_INCORRECT, SAME_TEXT
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import Dropped, Generation, Problem
from redi_lab.data.verdicts import Decision, decide, truncation

USED = "used"
RIGHT_NOT_CHOSEN = "right, but not chosen"
WRONG_NOT_CHOSEN = "wrong, but not chosen"
NOTHING_LEFT = "no generation passes the filters"
CONTAMINATED = "shares an n-gram with a benchmark"


@final
@dataclass(frozen=True, slots=True)
class RowRules:
    """How a row is judged, filtered and paired; see `redi_lab.config.schema.CurationConfig` for the meaning of each."""

    unknown: str = "unused"
    require_complete: bool = False
    require_answer: bool = False
    demonstrations: str = "first"
    negatives: str = "paired"
    pair_order: PairOrder = "first"
    pairs_per_problem: int | None = 1
    problem_duplicates: Duplicates = "keep"
    generation_duplicates: Duplicates = "keep"
    near_threshold: float = 0.8
    limits: Limits = field(default_factory=Limits)
    opening: str = ""
    seed: int = 42


@final
@dataclass(frozen=True, slots=True)
class Match:
    """A problem that shares an n-gram with a benchmark."""

    source_row: int
    id: str
    benchmark_id: str
    ngram: str


@final
@dataclass(frozen=True, slots=True)
class RowResult:
    """What became of one row.

    Attributes:
        row_reason: why the row gave nothing, or None.
        no_pair_reason: why a row in use gave no pair, or None.
        num_generations: generations of the row.
        generations: name → generations that ended there; the sum is `num_generations`.
        verdicts: right, wrong, or why unknown → generations that were judged.
        unknown_negatives: why unknown → generations used as negatives although nobody knows.
        demonstrations: rows of sft.parquet.
        pairs: rows of pairs.parquet.
        negatives: rows of negatives.parquet.
        key: to compare the problem by.
        match: with a benchmark.
    """

    row_reason: str | None
    num_generations: int
    generations: Counter[str]
    verdicts: Counter[str] = field(default_factory=Counter)
    unknown_negatives: Counter[str] = field(default_factory=Counter)
    no_pair_reason: str | None = None
    demonstrations: tuple[dict[str, Any], ...] = ()
    pairs: tuple[dict[str, Any], ...] = ()
    negatives: tuple[dict[str, Any], ...] = ()
    key: ProblemKey | None = None
    match: Match | None = None

    def dropped(self, reason: str) -> RowResult:
        """The same row, given up for a reason that lies outside it."""
        unused = Counter({f"row dropped: {reason}": self.num_generations})
        return RowResult(reason, self.num_generations, unused)


@final
@dataclass(frozen=True, slots=True)
class _Judged:
    """A generation that passed the filters."""

    place: int
    generation: Generation
    decision: Decision
    trace: Trace


@final
class RowCurator:
    """Curates one row after the other.

    Args:
        rules: the options.
        encoder: counts tokens; None counts none, and prefixes are then measured in characters.
        benchmarks: problems that must not be trained on.
        has_answer: tells whether a text states a final answer; needed with `rules.require_answer`.
    """

    def __init__(
        self,
        rules: RowRules,
        encoder: TraceEncoder | None = None,
        benchmarks: NgramIndex | None = None,
        has_answer: Callable[[str], bool] | None = None,
    ) -> None:
        self._rules = rules
        self._encoder = encoder
        self._benchmarks = benchmarks
        self._has_answer = has_answer

    def curate(self, source_row: int, problem: Problem | Dropped) -> RowResult:
        """Judge, filter and pair the generations of one row.

        Args:
            source_row: index of the row in its source, from 0.
            problem: the row, or its reader's refusal.
        """
        if isinstance(problem, Dropped):
            return _given_up(problem.reason, problem.num_generations)
        number = len(problem.generations)
        match = self._match(source_row, problem)
        if match is not None:
            return replace(_given_up(CONTAMINATED, number), match=match)
        if not problem.generations:
            return _given_up(NO_GENERATIONS, 0)
        prompt_tokens = None if self._encoder is None else len(self._encoder.prompt_ids(problem.problem, problem.id))
        too_long = None if prompt_tokens is None else self._rules.limits.prompt_exceeded(prompt_tokens)
        if too_long is not None:
            return _given_up(too_long, number)
        outcome: list[str | None] = [None] * number  # the name under which each generation ends
        judged = self._judge(problem, prompt_tokens or 0, outcome)
        result = self._select(source_row, problem, judged, prompt_tokens, outcome)
        return replace(result, verdicts=Counter(item.decision.reason for item in judged))

    def _match(self, source_row: int, problem: Problem) -> Match | None:
        found = None if self._benchmarks is None else self._benchmarks.match(problem.problem)
        return None if found is None else Match(source_row, problem.id, *found)

    def _judge(self, problem: Problem, prompt_tokens: int, outcome: list[str | None]) -> list[_Judged]:
        """The generations that pass the filters, with their verdicts; the others get their reason in `outcome`."""
        rules = self._rules
        texts = [generation.text for generation in problem.generations]
        repeated = repeated_texts(texts, rules.generation_duplicates, rules.near_threshold)
        judged = []
        for place, generation in enumerate(problem.generations):
            cut = truncation(generation, rules.opening)
            trace = self._trace(place, generation.text, problem.id)
            if cut is not None and rules.require_complete:
                outcome[place] = f"truncated: {cut}"
            elif trace.tokens is not None and (long := rules.limits.exceeded(prompt_tokens, len(trace))) is not None:
                outcome[place] = long
            elif repeated[place] is not None:
                outcome[place] = repeated[place]
            else:
                judged.append(_Judged(place, generation, self._decide(generation, cut), trace))
        return judged

    def _trace(self, place: int, text: str, row: str) -> Trace:
        if self._encoder is None:
            return Trace(place, text)
        return Trace(place, text, np.array(self._encoder.completion_ids(text, row), dtype=np.int32))

    def _decide(self, generation: Generation, cut: str | None) -> Decision:
        has_answer = not self._rules.require_answer or self._has_answer is None or self._has_answer(generation.text)
        return decide(generation, is_truncated=cut is not None, has_answer=has_answer)

    def _select(
        self,
        source_row: int,
        problem: Problem,
        judged: list[_Judged],
        prompt_tokens: int | None,
        outcome: list[str | None],
    ) -> RowResult:
        positives = [item for item in judged if item.decision.correct]
        negatives = [item for item in judged if self._is_negative(item.decision)]
        for item in judged:
            if item.decision.correct is None:
                outcome[item.place] = f"unknown: {item.decision.reason}"
        for items, name in ((positives, RIGHT_NOT_CHOSEN), (negatives, WRONG_NOT_CHOSEN)):
            for item in items:
                outcome[item.place] = name
        takes_all = self._rules.negatives == "all"
        if not positives and not (takes_all and negatives):
            reason = NO_CORRECT if judged else NOTHING_LEFT
            for item in negatives:
                outcome[item.place] = f"row dropped: {reason}"
            return RowResult(reason, len(outcome), _tally(outcome))
        shown = positives if self._rules.demonstrations == "all" else positives[:1]
        places = choose_pairs(
            [item.trace for item in positives],
            [item.trace for item in negatives],
            order=self._rules.pair_order,
            per_problem=self._rules.pairs_per_problem,
            salt=f"{self._rules.seed}/{problem.id}",
        )
        rejected = {negatives[j].place: negatives[j] for _, j in places}
        if takes_all:
            right_texts = {item.generation.text for item in positives}
            rejected = {item.place: item for item in negatives if item.generation.text not in right_texts}
        for place in {item.place for item in shown} | {positives[i].place for i, _ in places} | set(rejected):
            outcome[place] = USED
        row = {
            "id": problem.id,
            "problem": problem.problem,
            "answer": problem.answer,
            "source": problem.source,
            "source_row": source_row,
            "prompt_tokens": prompt_tokens,
        }
        return RowResult(
            None,
            len(outcome),
            _tally(outcome),
            unknown_negatives=Counter(n.decision.reason for n in rejected.values() if n.decision.correct is None),
            no_pair_reason=None if places else _why_no_pair(positives, negatives),
            demonstrations=tuple(row | _trace_columns(item) for item in shown),
            negatives=tuple(row | _trace_columns(item) for item in rejected.values()),
            pairs=tuple(row | _pair(positives[i], negatives[j]) for i, j in places),
            key=problem_key(problem.problem, self._rules.problem_duplicates),
        )

    def _is_negative(self, decision: Decision) -> bool:
        return decision.correct is False or (decision.correct is None and self._rules.unknown == "negative")


def _given_up(reason: str, num_generations: int) -> RowResult:
    return RowResult(reason, num_generations, Counter({f"row dropped: {reason}": num_generations}))


def _tally(outcome: list[str | None]) -> Counter[str]:
    missing = [place for place, name in enumerate(outcome) if name is None]
    if missing:
        raise AssertionError(f"generations {missing} are not accounted for")
    return Counter(name for name in outcome if name is not None)


def _why_no_pair(positives: list[_Judged], negatives: list[_Judged]) -> str:
    return NO_CORRECT if not positives else SAME_TEXT if negatives else NO_INCORRECT


def _trace_columns(item: _Judged) -> dict[str, Any]:
    return {
        "completion": item.generation.text,
        "generation_index": item.place,
        "verdicts": _verdicts(item),
        "completion_tokens": _tokens(item),
    }


def _pair(chosen: _Judged, rejected: _Judged) -> dict[str, Any]:
    return {
        "chosen": chosen.generation.text,
        "rejected": rejected.generation.text,
        "chosen_index": chosen.place,
        "rejected_index": rejected.place,
        "chosen_verdicts": _verdicts(chosen),
        "rejected_verdicts": _verdicts(rejected),
        "chosen_tokens": _tokens(chosen),
        "rejected_tokens": _tokens(rejected),
        "common_prefix": common_prefix(chosen.trace, rejected.trace),
        "length_ratio": len(rejected.trace) / max(len(chosen.trace), 1),
    }


def _verdicts(item: _Judged) -> str:
    return json.dumps(dict(item.generation.verdicts))


def _tokens(item: _Judged) -> int | None:
    return None if item.trace.tokens is None else len(item.trace.tokens)
