"""What all sources of a table of rows share: it is opened once, has a digest, and its rows become a corpus."""

from __future__ import annotations

import hashlib
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

from redi_lab.data.pairing import Negatives
from redi_lab.data.rows import OnProgress, Row, RowTable, open_rows
from redi_lab.data.selection import curate, shuffled
from redi_lab.data.traces import Dropped, Problem, TraceCorpus
from redi_lab.errors import UserError


@dataclass(frozen=True)
class TableSource(ABC):
    """Traces of a file, a folder or a hub data set; how a row becomes a problem is up to the kind of source.

    Attributes:
        path: hub id, or a local file or folder (see `redi_lab.data.rows`).
        split: of a hub data set, a saved `DatasetDict`, or a folder of split files.
        revision: of a hub data set.
        num_heldout: problems with an answer to keep for evaluation.
        negatives: which incorrect generation of a problem makes its pair, see `redi_lab.data.selection.choose`.
    """

    path: str
    split: str = "train"
    revision: str | None = None
    num_heldout: int = 0
    negatives: Negatives = "first"

    is_shuffled: ClassVar[bool] = False
    """Whether the corpus is in the order of `datasets.Dataset.shuffle(seed)` rather than of the source."""

    @property
    @abstractmethod
    def seed(self) -> int:
        """Seed of the choice of held-out problems."""

    @property
    @abstractmethod
    def options(self) -> Sequence[str]:
        """Further options that shape the corpus, for the digest."""

    @abstractmethod
    def parse(self, rows: Iterator[Row]) -> Iterator[Problem | Dropped]:
        """Problems with unique ids of raw rows, of which there is at least one.

        Raises:
            UserError: a row is not as documented.
        """

    def table(self) -> RowTable:
        """The raw rows.

        Raises:
            UserError: the data is not there.
        """
        return self._table

    @cached_property
    def _table(self) -> RowTable:
        # Opened once, so that digest and load agree on the commit of a hub data set.
        return open_rows(self.path, split=self.split, revision=self.revision)

    def digest(self) -> str:
        """The sha256 of the content (or commit) and of the options; reads the files once, or asks the hub once.

        Raises:
            UserError: the data is not there.
        """
        shared = [self.split, self.num_heldout, self.seed, self.is_shuffled, self.negatives]
        content = [type(self).__name__, self.table().digest(), *shared, *self.options]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def problems(self, on_progress: OnProgress | None = None) -> Iterator[Problem | Dropped]:
        """Every row as a problem or a refusal, in the order of the source.

        Raises:
            UserError: the data is not there, or a row is not as the source documents it.
        """
        return self.parse(self.table().rows(on_progress))

    def load(self, on_progress: OnProgress | None = None) -> TraceCorpus:
        """Read and select, in one pass.

        Raises:
            UserError: as `problems`; or too few problems can be held out, or nothing is left to train on.
        """
        problems, source = self.problems(on_progress), self.table().source
        corpus = curate(problems, source=source, num_heldout=self.num_heldout, seed=self.seed, negatives=self.negatives)
        return shuffled(corpus, self.seed) if self.is_shuffled else corpus


def peek(rows: Iterator[Row]) -> tuple[Row, Iterator[Row]]:
    """The first row, and all rows."""
    first = next(rows)
    return first, itertools.chain([first], rows)


def one_by_one(rows: Iterator[Row], parse: Callable[[Row, int], Problem | Dropped]) -> Iterator[Problem | Dropped]:
    """What `parse` makes of each row and its index.

    Raises:
        UserError: two rows have the same id.
    """
    places: dict[str, str] = {}
    for index, row in enumerate(rows):
        problem = parse(row, index)
        earlier = places.setdefault(problem.id, row.where)
        if earlier != row.where:
            raise UserError(f"{row.where}: the id {json.dumps(problem.id)} is that of {earlier}: ids must be unique")
        yield problem
