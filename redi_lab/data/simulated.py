"""Corpora of a simulated teacher: what the embedded tasks share.

For each problem the teacher tries until the answer is right (at most `max_tries` times): the right try is y_w, and one
of the failures before it is y_l, as `data.negatives` says. Everything follows from one seed.
"""

from __future__ import annotations

import hashlib
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from typing import ClassVar

from redi_lab.data.pairing import Negatives
from redi_lab.data.rows import OnProgress
from redi_lab.data.selection import NO_CORRECT, NO_INCORRECT, Choice, choose
from redi_lab.data.teacher import ChainProblem, Teacher
from redi_lab.data.traces import Demonstration, Generation, HeldOut, Pair, Problem, SelectionCounts, TraceCorpus

_MOST_PROBLEMS_PER_PAIR = 50  # a teacher that never errs gives no pair, however long one waits


@dataclass(frozen=True)
class SimulatedSource(ABC):
    """Problems, teacher traces and held-out problems of an embedded task, from one seed.

    Attributes:
        num_problems: problems the teacher works on, before the hopeless ones are dropped.
        num_heldout: further problems, kept for evaluation; disjoint from the former.
        seed: seed of problems and traces.
        max_tries: attempts before the teacher gives up on a problem.
        teacher: the teacher's habits.
        negatives: which failure makes a pair, see `redi_lab.data.selection.choose`; the first one is drawn at random.
    """

    num_problems: int
    num_heldout: int = 600
    seed: int = 0
    max_tries: int = 8
    teacher: Teacher = field(default_factory=Teacher)
    negatives: Negatives = "first"

    name: ClassVar[str]
    """Of the task."""

    @abstractmethod
    def draw(self, rng: random.Random) -> ChainProblem:
        """A problem to train on."""

    @abstractmethod
    def kept_out(self) -> tuple[ChainProblem, ...]:
        """Problems that are never drawn, since other benchmarks of the task hold them."""

    def digest(self) -> str:
        """SHA-256 of everything that shapes the corpus."""
        options = asdict(self)
        options |= options.pop("teacher")
        return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()

    def load(self, on_progress: OnProgress | None = None) -> TraceCorpus:
        """Make the corpus."""
        rng = random.Random(self.seed)
        problems = self._distinct(rng)
        held_out = self.named("heldout", islice(_adding(problems), self.num_heldout))
        taught = [
            self._teach(f"{self.name}/train/{index}", problem, rng)
            for index, problem in zip(range(self.num_problems), problems, strict=False)
        ]
        demonstrations = tuple(one.demonstration for one in taught if isinstance(one.demonstration, Demonstration))
        pairs = tuple(one.pair for one in taught if isinstance(one.pair, Pair))
        hopeless = self.num_problems - len(demonstrations)
        counts = SelectionCounts(
            rows_read=self.num_problems + self.num_heldout,
            dropped={NO_CORRECT: hopeless} if hopeless else {},
            demonstrations=len(demonstrations),
            pairs=len(pairs),
            without_pair={NO_INCORRECT: len(demonstrations) - len(pairs)},
            held_out=len(held_out),
        )
        if on_progress is not None:
            on_progress(counts.rows_read, counts.rows_read)
        return TraceCorpus(self.name, demonstrations, pairs, held_out, counts)

    def further(
        self, num_problems: int, num_pairs: int, exclude: Collection[str]
    ) -> tuple[tuple[HeldOut, ...], tuple[Pair, ...]]:
        """Problems and pairs beyond the corpus, to look at during training: the same ones at each call.

        They come from a separate stream of random numbers.

        Args:
            num_problems: how many problems.
            num_pairs: at most how many pairs, of yet other problems.
            exclude: texts of problems that are not to be among them, such as those of the corpus.
        """
        rng = random.Random(f"{self.seed}/further")
        fresh = (problem for problem in _adding(self._distinct(rng)) if problem.text not in exclude)
        problems = self.named("further", islice(fresh, num_problems))
        pairs: list[Pair] = []
        for index, problem in zip(range(_MOST_PROBLEMS_PER_PAIR * num_pairs), fresh, strict=False):
            if len(pairs) == num_pairs:
                break
            pair = self._teach(f"{self.name}/further_pair/{index}", problem, rng).pair
            pairs += [pair] if isinstance(pair, Pair) else []
        return problems, tuple(pairs)

    def named(self, prefix: str, problems: Iterable[ChainProblem]) -> tuple[HeldOut, ...]:
        """Problems for evaluation, with ids."""
        return tuple(
            HeldOut(f"{self.name}/{prefix}/{index}", problem.text, (str(problem.answer),))
            for index, problem in enumerate(problems)
        )

    def _teach(self, name: str, problem: ChainProblem, rng: random.Random) -> Choice:
        """What the tries come to. The failures are in order but for one drawn at random, which comes first."""
        failures: list[Generation] = []
        right: tuple[Generation, ...] = ()
        for _ in range(self.max_tries):
            trace, answer, error = self.teacher.solve(problem, rng)
            if answer == problem.answer:
                right = (Generation(trace, True),)
                break
            failures.append(Generation(trace, False, error=error))
        if right and failures:
            failures.insert(0, failures.pop(failures.index(rng.choice(failures))))
        if problem.takes:  # learned from right traces alone: what pairs do to it is transfer
            failures = []
        return choose(Problem(name, problem.text, str(problem.answer), (*right, *failures)), self.negatives, self.seed)

    def _distinct(self, rng: random.Random) -> Iterator[ChainProblem]:
        """Distinct problems for ever."""
        seen = set(self.kept_out())
        while True:
            problem = self.draw(rng)
            if problem not in seen:
                seen.add(problem)
                yield problem


def _adding(problems: Iterable[ChainProblem]) -> Iterator[ChainProblem]:
    return (problem for problem in problems if not problem.takes)
