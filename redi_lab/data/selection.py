"""From problems with judged generations to demonstrations, pairs and held-out problems (paper §3, steps 5 and 6).

Pure functions over iterables: nothing is read from disk here and nothing is kept but what is selected.

    demonstrations, pairs, counts = select(problems)

The rules: the first correct generation of a problem is its demonstration; with the first incorrect one it makes the
problem's only pair. An unknown verdict is never a positive and never a negative.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, final

from redi_lab.data.traces import Demonstration, Dropped, HeldOut, Pair, Problem, SelectionCounts, TraceCorpus
from redi_lab.errors import UserError

NO_GENERATIONS = "no generations"
NO_CORRECT = "no correct generation"
NO_INCORRECT = "no incorrect generation"
SAME_TEXT = "chosen and rejected are the same text"
LEAKS_HELD_OUT = "same text as a held-out problem"
REPEATED = "same problem and completion as an earlier row"


class Selection(NamedTuple):
    """The training rows and the account of all rows."""

    demonstrations: tuple[Demonstration, ...]
    pairs: tuple[Pair, ...]
    counts: SelectionCounts


def select(
    rows: Iterable[Problem | Dropped], *, held_out: Iterable[HeldOut] = (), distinct_demonstrations: bool = False
) -> Selection:
    """Choose the training rows.

    Args:
        rows: problems, and the rows that their reader refused, in the order that the result keeps.
        held_out: problems that must not be trained on, with every row of the same text.
        distinct_demonstrations: give an equal (problem, completion) once only. For ready pairs, of which several may
            share their chosen completion; in the paper every row of a problem is a demonstration.

    Returns:
        At most one demonstration and at most one pair for each row, with counts that add up.

    Raises:
        UserError: two rows have the same id.
    """
    selector = _Selector(held_out, distinct_demonstrations=distinct_demonstrations)
    for row in _with_unique_ids(rows):
        selector.add(row)
    return selector.result()


def hold_out(
    problems: Iterable[Problem | Dropped], num: int, seed: int, *, source: str = "the data"
) -> tuple[HeldOut, ...]:
    """Choose problems to keep for evaluation, by text: the order of the rows does not matter, and neither do ids.

    Every problem text has a rank, the sha256 of the seed and the text, and the `num` lowest ranks are held out: adding
    rows to a file therefore changes the choice only where a new text ranks lower. Of several rows with the same text,
    the one with the smallest id stands for all. Memory: `num` problems.

    Args:
        problems: rows as for `select`; only problems with an answer can be chosen.
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
    chosen: dict[int, HeldOut] = {}
    worst_first: list[int] = []  # the negated ranks of `chosen`, as a heap
    for problem in problems:
        if isinstance(problem, Dropped) or problem.answer is None:
            continue
        rank = int.from_bytes(hashlib.sha256(b"%d:%s" % (seed, text_key(problem.problem))).digest())
        if rank in chosen:
            if problem.id < chosen[rank].id:
                chosen[rank] = _as_held_out(problem, problem.answer)
        elif len(chosen) < num:
            chosen[rank] = _as_held_out(problem, problem.answer)
            heapq.heappush(worst_first, -rank)
        elif rank < -worst_first[0]:
            chosen[rank] = _as_held_out(problem, problem.answer)
            del chosen[-heapq.heapreplace(worst_first, -rank)]
    if len(chosen) < num:
        raise UserError(
            f"{source}: num_heldout={num} problems were asked for, but only {len(chosen)} different problems have an "
            f"answer: set data.num_heldout to {len(chosen)} or less, or give more rows an answer"
        )
    return tuple(chosen[rank] for rank in sorted(chosen))


def curate(
    read: Callable[[], Iterable[Problem | Dropped]],
    *,
    source: str,
    digest: str,
    num_heldout: int = 0,
    seed: int = 0,
    distinct_demonstrations: bool = False,
) -> TraceCorpus:
    """Hold out, select and account for the rows of one source.

    Args:
        read: starts a pass over the rows; called once, or twice when problems are held out, so that no pass has to
            keep what it reads.
        source: name of the source, for people.
        digest: see `TraceSource.digest`.
        num_heldout: problems to keep for evaluation, see `hold_out`.
        seed: of that choice.
        distinct_demonstrations: see `select`.

    Raises:
        UserError: as `hold_out` and `select`, or no row gives a demonstration.
    """
    held_out = hold_out(read(), num_heldout, seed, source=source)
    demonstrations, pairs, counts = select(read(), held_out=held_out, distinct_demonstrations=distinct_demonstrations)
    if not demonstrations:
        raise UserError(f"{source}: no row is left to train on, which needs a right generation: {counts.as_dict()}")
    return TraceCorpus(source, digest, demonstrations, pairs, held_out, counts)


def choose_demonstration(problem: Problem) -> Demonstration | str:
    """The first correct generation, or the reason why there is none."""
    if not problem.generations:
        return NO_GENERATIONS
    for generation in problem.generations:
        if generation.correct:
            return Demonstration(problem.id, problem.problem, generation.text)
    return NO_CORRECT


def choose_pair(problem: Problem, demonstration: Demonstration) -> Pair | str:
    """The demonstration against the first incorrect generation of another text, or the reason why there is no pair."""
    reason = NO_INCORRECT
    for generation in problem.generations:
        if generation.correct is False:  # None is an unknown verdict, never a negative
            if generation.text != demonstration.completion:
                return Pair(problem.id, problem.problem, demonstration.completion, generation.text)
            reason = SAME_TEXT
    return reason


def text_key(text: str) -> bytes:
    """What makes two problem texts the same: the sha256 of the text with every run of white space as one space."""
    return hashlib.sha256(" ".join(text.split()).encode()).digest()


@final
class _Selector:
    """The running state of `select`."""

    def __init__(self, held_out: Iterable[HeldOut], *, distinct_demonstrations: bool) -> None:
        self._held_out = {item.id: text_key(item.problem) for item in held_out}
        self._held_out_texts = frozenset(self._held_out.values())
        self._given: set[bytes] | None = set() if distinct_demonstrations else None
        self._demonstrations: list[Demonstration] = []
        self._pairs: list[Pair] = []
        self._rows_read = self._num_held_out = 0
        self._dropped: Counter[str] = Counter()
        self._without_pair: Counter[str] = Counter()
        self._without_demonstration: Counter[str] = Counter()

    def add(self, row: Problem | Dropped) -> None:
        self._rows_read += 1
        if isinstance(row, Dropped):
            self._dropped[row.reason] += 1
        elif row.id in self._held_out:
            self._num_held_out += 1
        elif self._held_out_texts and text_key(row.problem) in self._held_out_texts:
            self._dropped[LEAKS_HELD_OUT] += 1
        else:
            self._use(row)

    def _use(self, row: Problem) -> None:
        demonstration = choose_demonstration(row)
        if isinstance(demonstration, str):
            self._dropped[demonstration] += 1
            return
        if self._is_repeated(demonstration):
            self._without_demonstration[REPEATED] += 1
        else:
            self._demonstrations.append(demonstration)
        pair = choose_pair(row, demonstration)
        if isinstance(pair, str):
            self._without_pair[pair] += 1
        else:
            self._pairs.append(pair)

    def _is_repeated(self, demonstration: Demonstration) -> bool:
        if self._given is None:
            return False
        key = hashlib.sha256(repr((demonstration.problem, demonstration.completion)).encode()).digest()
        is_repeated = key in self._given
        self._given.add(key)
        return is_repeated

    def result(self) -> Selection:
        counts = SelectionCounts(
            rows_read=self._rows_read,
            dropped=dict(self._dropped),
            demonstrations=len(self._demonstrations),
            pairs=len(self._pairs),
            without_pair=dict(self._without_pair),
            held_out=self._num_held_out,
            without_demonstration=dict(self._without_demonstration),
        )
        counts.check()
        return Selection(tuple(self._demonstrations), tuple(self._pairs), counts)


def _as_held_out(problem: Problem, answer: str) -> HeldOut:
    return HeldOut(problem.id, problem.problem, (answer,))


def _with_unique_ids(rows: Iterable[Problem | Dropped]) -> Iterator[Problem | Dropped]:
    first_seen: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        earlier = first_seen.setdefault(row.id, number)
        if earlier != number:
            raise UserError(f"rows {earlier} and {number} have the same id {row.id!r}: ids must be unique")
        yield row
