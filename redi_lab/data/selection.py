"""From problems with graded generations to demonstrations, pairs and held-out problems (paper §3, steps 5 and 6).

    corpus = curate(problems, source="mine.jsonl", num_heldout=100)

The rules: the first correct generation of a problem is its demonstration; with the first incorrect one, or another that
a `redi_lab.data.pairing` rule names, it makes the problem's only pair. An unknown verdict is never a positive and never
a negative. The rows are read once, and nothing is
kept of them but what is selected.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from redi_lab.data.pairing import RANKS, Negatives, Trace, choose_pairs, far_pairs
from redi_lab.data.traces import Demonstration, Dropped, HeldOut, Pair, Problem, SelectionCounts, TraceCorpus, pass_rate
from redi_lab.errors import UserError

NO_GENERATIONS = "no generations"
NO_CORRECT = "no correct generation"
NO_INCORRECT = "no incorrect generation"
SAME_TEXT = "chosen and rejected are the same text"
LEAKS_HELD_OUT = "same text as a held-out problem"
REPEATED = "same problem and completion as an earlier row"
NO_FAR_NEGATIVE = "no wrong trace can be made of its right one"


class Choice(NamedTuple):
    """What can come of a problem: a demonstration or the reason why there is none, and the same for a pair."""

    id: str
    problem: str
    answer: str | None
    demonstration: Demonstration | str
    pair: Pair | str
    is_ready_pair: bool


def curate(
    rows: Iterable[Problem | Dropped],
    *,
    source: str,
    num_heldout: int = 0,
    seed: int = 0,
    negatives: Negatives = "first",
) -> TraceCorpus:
    """Hold out, select and account for the rows of one source.

    Args:
        rows: problems with unique ids, and the rows that their reader refused, in the order that the result keeps.
        source: name of the source, for people.
        num_heldout: problems to keep for evaluation, see `hold_out`; every row of the same text leaves training.
        seed: seed of the choices of held-out problems and of random negatives.
        negatives: see `choose`.

    Returns:
        At most one demonstration and at most one pair for each row, with counts that add up. An equal demonstration of
        ready pairs is given once only; otherwise, as in the paper, each row gives its own.

    Raises:
        UserError: as `hold_out`, or no row gives a demonstration.
    """
    dropped: Counter[str] = Counter()
    choices: list[Choice] = []
    for row in rows:
        if isinstance(row, Dropped):
            dropped[row.reason] += 1
        else:
            choices.append(choose(row, negatives, seed))
    rows_read = len(choices) + dropped.total()
    held_out = hold_out(choices, num_heldout, seed, source=source)
    usable = _without_held_out(choices, held_out, dropped)
    without_pair: Counter[str] = Counter(choice.pair for choice in usable if isinstance(choice.pair, str))
    pairs = tuple(choice.pair for choice in usable if isinstance(choice.pair, Pair))
    demonstrations = _demonstrations(usable)
    repeated = len(usable) - len(demonstrations)
    counts = SelectionCounts(
        rows_read=rows_read,
        dropped=dict(dropped),
        demonstrations=len(demonstrations),
        pairs=len(pairs),
        without_pair=dict(without_pair),
        held_out=len(held_out),
        without_demonstration={REPEATED: repeated} if repeated else {},
    )
    counts.check()
    if not demonstrations:
        raise UserError(f"{source}: no row is left to train on, which needs a right generation: {counts.as_dict()}")
    return TraceCorpus(source, demonstrations, pairs, held_out, counts)


def choose(problem: Problem, negatives: Negatives = "first", seed: int = 0) -> Choice:
    """The first correct generation, and that against an incorrect one of another text.

    Args:
        problem: with its generations.
        negatives: which of several incorrect ones: an order of `choose_pairs`, by characters; far rules take the first.
        seed: of the random order.
    """
    rate = None if problem.is_ready_pair else pass_rate(generation.correct for generation in problem.generations)
    right = next((generation for generation in problem.generations if generation.correct), None)
    if right is None:
        reason = NO_CORRECT if problem.generations else NO_GENERATIONS
        return Choice(problem.id, problem.problem, problem.answer, reason, NO_INCORRECT, problem.is_ready_pair)
    # None is an unknown verdict, never a negative.
    wrong = [generation for generation in problem.generations if generation.correct is False]
    places = choose_pairs(
        [Trace(0, right.text)],
        [Trace(place, generation.text) for place, generation in enumerate(wrong)],
        order="first" if negatives == "other_problem" or negatives == "shuffled_steps" else negatives,
        per_problem=1,
        salt=f"{seed}/{problem.id}",
    )
    pair: Pair | str = SAME_TEXT if wrong else NO_INCORRECT
    for _, place in places:
        texts, weights = (right.text, wrong[place].text), (right.weights, wrong[place].weights)
        pair = Pair(problem.id, problem.problem, *texts, *weights, rate, wrong[place].error)
    demonstration = Demonstration(problem.id, problem.problem, right.text, right.weights, rate)
    return Choice(problem.id, problem.problem, problem.answer, demonstration, pair, problem.is_ready_pair)


def with_far_negatives(corpus: TraceCorpus, negatives: Negatives, seed: int) -> TraceCorpus:
    """The corpus with pairs as `far_pairs` makes them, and wrong traces from these alone; unchanged by other rules."""
    if negatives in RANKS:
        return corpus
    pairs = far_pairs(corpus.pairs, negatives, seed)
    lost = Counter({NO_FAR_NEGATIVE: len(corpus.pairs) - len(pairs)})
    counts = replace(corpus.counts, pairs=len(pairs), without_pair=dict(+lost + Counter(corpus.counts.without_pair)))
    return replace(corpus, pairs=pairs, counts=counts, unpaired_negatives=None)


def hold_out(
    problems: Iterable[Choice | Problem], num: int, seed: int, *, source: str = "the data"
) -> tuple[HeldOut, ...]:
    """Choose problems to keep for evaluation, by text: the order of the rows does not matter, and neither do ids.

    Every problem text has a rank, the sha256 of the seed and the text, and the `num` lowest ranks are held out: adding
    rows to a file therefore changes the choice only where a new text ranks lower. Of several rows with the same text,
    the one with the smallest id stands for all.

    Args:
        problems: those to choose from; only those with an answer can be chosen.
        num: how many, at least 0.
        seed: another seed, another choice.
        source: what to call the rows in an error.

    Returns:
        `num` problems with pairwise different texts, by increasing rank.

    Raises:
        UserError: `num` is negative, or fewer than `num` different problems have an answer.
    """
    if num < 0:
        raise UserError(f"num_heldout={num}: give a number of problems, 0 for none")
    if num == 0:
        return ()
    by_rank: dict[bytes, HeldOut] = {}
    for problem in problems:
        if problem.answer is not None:
            rank = hashlib.sha256(b"%d:%s" % (seed, text_key(problem.problem))).digest()
            if rank not in by_rank or problem.id < by_rank[rank].id:
                by_rank[rank] = HeldOut(problem.id, problem.problem, (problem.answer,))
    if len(by_rank) < num:
        raise UserError(
            f"{source}: num_heldout={num} problems were asked for, but only {len(by_rank)} different problems have an "
            f"answer: set data.source.num_heldout to {len(by_rank)} or less, or give more rows an answer"
        )
    return tuple(by_rank[rank] for rank in heapq.nsmallest(num, by_rank))


def text_key(text: str) -> bytes:
    """What makes two problem texts the same: the sha256 of the text with every run of white space as one space."""
    return hashlib.sha256(" ".join(text.split()).encode()).digest()


def shuffled(corpus: TraceCorpus, seed: int) -> TraceCorpus:
    """The corpus in the order of `datasets.Dataset.shuffle(seed)` over all rows read; its ids are row indices."""
    place = np.argsort(np.random.default_rng(seed).permutation(corpus.counts.rows_read))

    def by_place(record: Demonstration | Pair) -> int:
        return int(place[int(record.id)])

    return replace(
        corpus,
        demonstrations=tuple(sorted(corpus.demonstrations, key=by_place)),
        pairs=tuple(sorted(corpus.pairs, key=by_place)),
    )


def _without_held_out(choices: Iterable[Choice], held_out: Iterable[HeldOut], dropped: Counter[str]) -> list[Choice]:
    """The choices to train on; counts those that are not under `dropped`, held-out ones aside."""
    texts = {item.id: text_key(item.problem) for item in held_out}
    known = frozenset(texts.values())
    usable = []
    for choice in choices:
        if choice.id in texts:
            continue
        if known and text_key(choice.problem) in known:
            dropped[LEAKS_HELD_OUT] += 1
        elif isinstance(choice.demonstration, str):
            dropped[choice.demonstration] += 1
        else:
            usable.append(choice)
    return usable


def _demonstrations(usable: Iterable[Choice]) -> tuple[Demonstration, ...]:
    given: set[tuple[str, str]] = set()
    demonstrations = []
    for choice in usable:
        assert isinstance(choice.demonstration, Demonstration)
        content = (choice.problem, choice.demonstration.completion)
        if not choice.is_ready_pair or content not in given:
            demonstrations.append(choice.demonstration)
        if choice.is_ready_pair:
            given.add(content)
    return tuple(demonstrations)
