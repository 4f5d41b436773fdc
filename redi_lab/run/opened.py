"""A data source of a command: made, hashed and read once, whichever stages share it."""

from __future__ import annotations

from functools import cached_property
from typing import final

from omegaconf import DictConfig

from redi_lab.data.selection import with_far_negatives
from redi_lab.data.traces import TraceCorpus
from redi_lab.run.build import make_source
from redi_lab.run.screen import waiting


@final
class OpenedData:
    """The source that a configuration names.

    Args:
        config: with the group data.

    Raises:
        UserError: as the source's constructor; `digest` and `corpus` raise what its methods do.
    """

    def __init__(self, config: DictConfig) -> None:
        self.source = make_source(config)
        self._name = str(config.name)
        self._negatives, self._seed = config.data.negatives, config.seed

    @cached_property
    def digest(self) -> str:
        """Of the content and of the options that shape the corpus."""
        return self.source.digest()

    @cached_property
    def corpus(self) -> TraceCorpus:
        """What the source gives."""
        with waiting(f"Reading traces of {self._name}") as on_progress:
            return with_far_negatives(self.source.load(on_progress), self._negatives, self._seed)
