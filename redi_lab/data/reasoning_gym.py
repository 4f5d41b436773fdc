"""Problems of reasoning-gym's procedural tasks, without traces: to generate traces of, and to evaluate on.

    source = ReasoningGymSource(["chain_sum", "gcd"], difficulty=0)
    source.load().held_out                    # the same for every seed
    problems, _ = source.further(1000, 0, ())

A text is a held-out problem or one of the others by its own hash, so no problem is ever on both sides, whatever the
seeds and the numbers. The package is an optional extra, and imported when it is needed. Source: arXiv 2505.24760.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import count, cycle, islice
from typing import Any, final

from redi_lab.data.rows import OnProgress
from redi_lab.data.selection import text_key
from redi_lab.data.traces import HeldOut, Pair, SelectionCounts, TraceCorpus
from redi_lab.errors import UserError

UNFREE = ("gsm_symbolic", "multilingual_gsm_symbolic")
"""Tasks whose templates may not be used freely."""
_NO_TASK = (*UNFREE, "composite")  # the last one is a mixture of others
_SIZE = 500  # problems of one data set of the package: some of its tasks have no more than 20,000
_HELD_OUT_SHARE = 10  # one text in so many
_PATIENCE = 2000  # draws without a new problem, until a task counts as used up


@final
class ReasoningGymSource:
    """A mixture of tasks in equal parts.

    Args:
        tasks: names of the package's tasks.
        difficulty: level of the task's curriculum, from 0; None for the task's own defaults.
        options: of single tasks, what the fields of their configurations are to be.
        num_heldout: problems to keep for evaluation.
        seed: seed of the others.
        heldout_seed: seed of the held-out ones.
    """

    name = "reasoning_gym"

    def __init__(
        self,
        tasks: Sequence[str],
        difficulty: int | None = None,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        num_heldout: int = 300,
        seed: int = 0,
        heldout_seed: int = 0,
    ) -> None:
        self.tasks = tuple(dict.fromkeys(tasks))
        self.difficulty = difficulty
        self.options = {task: dict(fields) for task, fields in (options or {}).items()}
        self.num_heldout = num_heldout
        self.seed = seed
        self.heldout_seed = heldout_seed

    def check(self) -> None:
        """Make the first problem of each task.

        Raises:
            UserError: the package is missing; or a task, a level or an option is not one.
        """
        if find_spec("reasoning_gym") is None:
            raise UserError(
                "data=reasoning_gym: reasoning-gym is not installed in this environment; pip install"
                " 'redi-lab[reasoning-gym]'"
            )
        from reasoning_gym.factory import DATASETS

        for task in self.tasks:
            if task in UNFREE:
                raise UserError(f"data.source.tasks: {task}: its templates may not be used freely; choose another task")
            if task not in DATASETS or task in _NO_TASK:
                close = difflib.get_close_matches(task, set(DATASETS) - set(_NO_TASK), n=1)
                hint = f" (did you mean {close[0]}?)" if close else ""
                raise UserError(f"data.source.tasks: {task}: reasoning-gym has no such task{hint}; see its GALLERY.md")
            self.entry(f"{task}/{self.seed}/0")
        if stray := [task for task in self.options if task not in self.tasks]:
            raise UserError(f"data.source.options.{stray[0]}: data.source.tasks has no {stray[0]}; add it there")

    def digest(self) -> str:
        """The sha256 of everything that shapes the problems, but the version of the package."""
        return hashlib.sha256(json.dumps(vars(self), sort_keys=True).encode()).hexdigest()

    def load(self, on_progress: OnProgress | None = None) -> TraceCorpus:
        """The held-out problems; there are no traces.

        Raises:
            UserError: as `check`, or a task has too few different problems.
        """
        self.check()
        held_out = tuple(islice(self._distinct(self.heldout_seed, True), self.num_heldout))
        counts = SelectionCounts(len(held_out), {}, 0, 0, {}, len(held_out))
        if on_progress is not None:
            on_progress(len(held_out), len(held_out))
        return TraceCorpus(self.name, (), (), held_out, counts)

    def further(
        self, num_problems: int, num_pairs: int, exclude: Collection[str]
    ) -> tuple[tuple[HeldOut, ...], tuple[Pair, ...]]:
        """Problems that are never held out; see `SimulatedSource.further`. There are no pairs.

        Raises:
            UserError: as `load`.
        """
        self.check()
        fresh = (row for row in self._distinct(self.seed, False) if row.problem not in exclude)
        return tuple(islice(fresh, num_problems)), ()

    def entry(self, identifier: str) -> dict[str, Any]:
        """What the package says of the problem with this id: question, answer, metadata.

        Raises:
            UserError: a level or an option is not one.
        """
        task, seed, number = identifier.split("/")
        entry: dict[str, Any] = self._data_set(task, int(seed), int(number) // _SIZE)[int(number) % _SIZE]
        return entry

    def configuration(self, task: str, seed: int = 0) -> Any:
        """The task's configuration under the difficulty and the options.

        Raises:
            UserError: a level or an option is not one.
        """
        from reasoning_gym.factory import CURRICULA, DATASETS

        fields = {**self.options.get(task, {}), "seed": seed, "size": _SIZE}
        kind = DATASETS[task][1]
        known = [field.name for field in dataclasses.fields(kind)]
        if unknown := [name for name in fields if name not in known]:
            raise UserError(f"data.source.options.{task}.{unknown[0]}: {task} has no such option; it has {known}")
        if self.difficulty is None:
            return kind(**fields)
        if task not in CURRICULA:
            raise UserError(f"data.source.difficulty={self.difficulty}: {task} has no levels; leave it null")
        curriculum = CURRICULA[task]()
        most = max(len(attribute.levels) for attribute in curriculum.attributes.values()) - 1
        if self.difficulty > most:
            raise UserError(f"data.source.difficulty={self.difficulty}: {task} has the levels 0 to {most}")
        for name, attribute in curriculum.attributes.items():
            curriculum.set_attr_level(name, min(self.difficulty, len(attribute.levels) - 1))
        return dataclasses.replace(curriculum.generate_configuration(), **fields)

    @lru_cache(maxsize=64)  # noqa: B019 - as long as its source
    def _data_set(self, task: str, seed: int, part: int) -> Any:
        """Some problems of a seed, of which item i is made from the package's seed plus i."""
        from reasoning_gym.factory import DATASETS

        configuration = self.configuration(task, _start(task, seed) + part * _SIZE)
        try:
            return DATASETS[task][0](configuration)
        except (AssertionError, TypeError, ValueError) as error:  # how the package refuses a configuration
            raise UserError(f"data.source.options.{task}: {error}; change data.source.options or difficulty") from error

    def _distinct(self, seed: int, is_held_out: bool) -> Iterator[HeldOut]:
        """Problems with different texts, from one task after the other."""
        seen: set[bytes] = set()
        for stream in cycle([self._of_task(task, seed, is_held_out, seen) for task in self.tasks]):
            yield next(stream)

    def _of_task(self, task: str, seed: int, is_held_out: bool, seen: set[bytes]) -> Iterator[HeldOut]:
        num_found = misses = 0
        for number in count():
            identifier = f"{task}/{seed}/{number}"
            entry = self.entry(identifier)
            key = text_key(entry["question"])
            if (key[0] % _HELD_OUT_SHARE == 0) == is_held_out and key not in seen:
                seen.add(key)
                num_found, misses = num_found + 1, 0
                answer = entry["answer"]  # None where a scorer alone can tell
                yield HeldOut(identifier, entry["question"], ("" if answer is None else str(answer),))
            elif (misses := misses + 1) == _PATIENCE:
                break
        raise UserError(
            f"data.source.tasks: {task} has about {num_found} different problems at this difficulty, too few; ask for"
            " fewer (eval.limit, data.source.num_heldout), or change data.source.difficulty or options"
        )


def _start(task: str, seed: int) -> int:
    """The package's seed of the first problem: its adjacent seeds share all problems but one, so ours are far apart."""
    return int.from_bytes(hashlib.sha256(f"{task}/{seed}".encode()).digest()[:4], "big") // 2
