"""One problem with all its generations on its way to demonstrations and pairs; each step counts what it drops.

    curator = RowCurator(rules)
    result = curator.curate(7, problem)  # or a row that its reader dropped
    result.demonstrations, result.pairs, result.generations

It is pure and knows one row at a time, so rows can be curated in any process. Every generation of the row ends under
exactly one name in `RowResult.generations`: `USED`, or why it was not.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Collection
from dataclasses import dataclass, field, replace
from typing import Any, final

from redi_lab.config.schema.curation import Flaw
from redi_lab.curation.decontamination import NgramIndex
from redi_lab.curation.duplicates import Duplicates, SeenTexts, TextKey, text_key
from redi_lab.curation.hygiene import FLAWS, Candidate, Judge
from redi_lab.data.chats import Dialogue
from redi_lab.data.pairing import PairOrder, Trace, choose_pairs
from redi_lab.data.selection import NO_CORRECT, NO_GENERATIONS, NO_INCORRECT, SAME_TEXT
from redi_lab.data.token_weights import common_prefix
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import Dropped, Generation, Problem, pass_rate
from redi_lab.data.verdicts import Decision, decide, truncation
from redi_lab.errors import UserError

USED = "used"
RIGHT_NOT_CHOSEN = "right, but not chosen"
WRONG_NOT_CHOSEN = "wrong, but not chosen"
NOTHING_LEFT = "no generation passes the filters"
CONTAMINATED = "shares an n-gram with a benchmark"


@final
@dataclass(frozen=True, slots=True)
class RowRules:
    """How a row is graded, filtered and paired: settings of the groups curation and data, under their names."""

    unknown: str
    require_complete: bool
    require_answer: bool
    demonstrations: str
    negatives: str
    pair_order: PairOrder
    pairs_per_problem: int | None
    problem_duplicates: Duplicates
    generation_duplicates: Duplicates
    near_threshold: float
    drop_negatives: Collection[Flaw]
    max_prompt_tokens: int | None
    max_completion_tokens: int | None
    max_sequence_tokens: int | None
    thinking_prefix: str
    seed: int


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
        verdicts: right, wrong, or why unknown → generations that passed the filters.
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
    key: TextKey | None = None
    match: Match | None = None


def given_up(reason: str, num_generations: int) -> RowResult:
    """A row that gives nothing, with all its generations."""
    return RowResult(reason, num_generations, Counter({f"row dropped: {reason}": num_generations}))


@final
class RowCurator:
    """Curates one row after the other.

    Args:
        rules: the options.
        encoder: counts tokens; None counts none, and prefixes are then measured in characters.
        benchmarks: problems that must not be trained on.
        has_answer: tells whether a text states a final answer; None takes every text for one that does.
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
        self._has_answer = has_answer or (lambda text: True)

    def curate(self, source_row: int, problem: Problem | Dropped) -> RowResult:
        """Filter, grade and pair the generations of one row.

        Args:
            source_row: index of the row in its source, from 0.
            problem: the row, or its reader's refusal.

        Raises:
            UserError: its prompt has several turns.
        """
        if isinstance(problem, Dropped):
            return given_up(problem.reason, problem.num_generations)
        if isinstance(problem.problem, Dialogue):
            raise UserError(
                f'row {source_row} (id {problem.id}): key "prompt": has several turns, which curate would join; train'
                " on the file itself, with data=jsonl"
            )
        number = len(problem.generations)
        found = None if self._benchmarks is None else self._benchmarks.match(problem.problem)
        if found is not None:
            return replace(given_up(CONTAMINATED, number), match=Match(source_row, problem.id, *found))
        if not problem.generations:
            return given_up(NO_GENERATIONS, 0)
        prompt_tokens = None if self._encoder is None else len(self._encoder.prompt_ids(problem.problem, problem.id))
        if (long := _over("prompt", prompt_tokens, self._rules.max_prompt_tokens)) is not None:
            return given_up(long, number)
        endings: list[str | None] = [None] * number  # the name under which each generation ends
        everything = self._candidates(problem, prompt_tokens, endings)
        candidates = [item for item in everything if endings[item.trace.index] is None]
        rate = None if problem.is_ready_pair else pass_rate(item.decision.correct for item in everything)
        columns = {
            "id": problem.id,
            "problem": problem.problem,
            "answer": problem.answer,
            "source": problem.source,
            "source_row": source_row,
            "pass_rate": rate,
            "prompt_tokens": prompt_tokens,
        }
        result = self._select(problem, columns, candidates, endings)
        return replace(result, verdicts=Counter(item.decision.reason for item in candidates))

    def _candidates(self, problem: Problem, prompt_tokens: int | None, endings: list[str | None]) -> list[Candidate]:
        """All generations with their verdicts; those that do not pass the filters get their reason in `endings`."""
        rules, seen = self._rules, SeenTexts("generation of the problem", self._rules.near_threshold)
        candidates = []
        for place, generation in enumerate(problem.generations):
            tokens = None if self._encoder is None else self._encoder.completion_ids(generation.text, problem.id)
            trace, length = Trace(place, generation.text, tokens), None if tokens is None else len(tokens)
            whole = None if length is None or prompt_tokens is None else prompt_tokens + length
            repeated = seen.reason_to_drop(text_key(generation.text, rules.generation_duplicates, same_numbers=False))
            cut = truncation(generation, rules.thinking_prefix)
            endings[place] = (
                (f"truncated: {cut}" if cut is not None and rules.require_complete else None)
                or _over("completion", length, rules.max_completion_tokens)
                or _over("sequence", whole, rules.max_sequence_tokens)
                or repeated
            )
            has_answer = not rules.require_answer or self._has_answer(generation.text)
            decision = decide(generation, is_truncated=cut is not None, has_answer=has_answer)
            candidates.append(Candidate(generation, decision, trace, cut is not None))
        return candidates

    def _select(
        self, problem: Problem, row: dict[str, Any], candidates: list[Candidate], endings: list[str | None]
    ) -> RowResult:
        rules = self._rules
        positives = [item for item in candidates if item.decision.correct]
        for item in candidates:
            if item.decision.correct is None:
                endings[item.trace.index] = f"unknown: {item.decision.reason}"
        negatives = self._clean_negatives(problem, candidates, endings)
        for items, name in ((positives, RIGHT_NOT_CHOSEN), (negatives, WRONG_NOT_CHOSEN)):
            for item in items:
                endings[item.trace.index] = name
        takes_all = rules.negatives == "all"
        if not positives and not (takes_all and negatives):
            reason = NO_CORRECT if candidates else NOTHING_LEFT
            for item in negatives:
                endings[item.trace.index] = f"row dropped: {reason}"
            return RowResult(reason, len(endings), Counter(filter(None, endings)))
        shown = positives if rules.demonstrations == "all" else positives[:1]
        places = choose_pairs(
            [item.trace for item in positives],
            [item.trace for item in negatives],
            order=rules.pair_order,
            per_problem=rules.pairs_per_problem,
            salt=f"{rules.seed}/{problem.id}",
        )
        pairs = [(positives[i], negatives[j]) for i, j in places]
        if takes_all:
            right_texts = {item.generation.text for item in positives}
            rejected = [item for item in negatives if item.generation.text not in right_texts]
        else:
            rejected = list({item.trace.index: item for _, item in pairs}.values())
        for item in (*shown, *(chosen for chosen, _ in pairs), *rejected):
            endings[item.trace.index] = USED
        why_no_pair = NO_CORRECT if not positives else SAME_TEXT if negatives else NO_INCORRECT
        return RowResult(
            None,
            len(endings),
            Counter(filter(None, endings)),
            unknown_negatives=Counter(n.decision.reason for n in rejected if n.decision.correct is None),
            no_pair_reason=None if pairs else why_no_pair,
            demonstrations=tuple(row | _trace_columns(item) for item in shown),
            negatives=tuple(row | _trace_columns(item) for item in rejected),
            pairs=tuple(row | _pair_columns(*pair) for pair in pairs),
            key=text_key(problem.problem, rules.problem_duplicates),
        )

    def _clean_negatives(
        self, problem: Problem, candidates: list[Candidate], endings: list[str | None]
    ) -> list[Candidate]:
        """Those without a flaw that is dropped; the first flaw of each other one is its ending."""
        negatives = [item for item in candidates if self._is_negative(item.decision)]
        if not self._rules.drop_negatives:
            return negatives
        judge, clean = self._judge_of(problem, candidates), []
        for item in negatives:
            flaws = judge.flaws_of(item, self._rules.drop_negatives)
            if flaws:
                endings[item.trace.index] = f"negative dropped: {flaws[0]}"
            else:
                clean.append(item)
        return clean

    def _judge_of(self, problem: Problem, candidates: list[Candidate]) -> Judge:
        right = [item.trace for item in candidates if item.decision.correct]
        return Judge(problem.problem, right, self._rules.near_threshold, self._has_answer)

    def judge(self, problem: Problem) -> list[tuple[int, Generation, tuple[Flaw, ...]]]:
        """Look at all generations that are not known to be right, whatever the filters say.

        Args:
            problem: the row.

        Returns:
            For each of them its place among the row's generations, the generation, and all of its flaws.
        """
        candidates = self._candidates(problem, None, [None] * len(problem.generations))
        judge = self._judge_of(problem, candidates)
        negatives = [item for item in candidates if not item.decision.correct]
        return [(item.trace.index, item.generation, judge.flaws_of(item, FLAWS)) for item in negatives]

    def _is_negative(self, decision: Decision) -> bool:
        return decision.correct is False or (decision.correct is None and self._rules.unknown == "negative")


def _over(what: str, number: int | None, limit: int | None) -> str | None:
    """The reason to drop what has more tokens than the limit; None where there is no limit, or nothing was counted."""
    return f"{what} over {limit} tokens" if number is not None and limit is not None and number > limit else None


def _trace_columns(item: Candidate) -> dict[str, Any]:
    return {
        "completion": item.generation.text,
        "generation_index": item.trace.index,
        "verdicts": json.dumps(dict(item.generation.verdicts)),
        "error": item.generation.error,
        "completion_tokens": None if item.trace.tokens is None else len(item.trace),
        **item.generation.weights.as_columns(),
    }


def _pair_columns(chosen: Candidate, rejected: Candidate) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for side, item in (("chosen", chosen), ("rejected", rejected)):
        of_side = _trace_columns(item)
        columns[side] = of_side["completion"]
        columns |= {f"{side}_{name}": of_side[name] for name in ("verdicts", "weight", "spans", "steps")}
        columns |= {f"{side}_index": of_side["generation_index"], f"{side}_tokens": of_side["completion_tokens"]}
    return columns | {
        "rejected_error": rejected.generation.error,
        "common_prefix": common_prefix(chosen.trace.units, rejected.trace.units),
        "length_ratio": len(rejected.trace) / max(len(chosen.trace), 1),
    }
