"""What conf/paper holds: the paper's exhibits with its numbers, and what stands for its runs at a scale.

exhibits.yaml and embedded.yaml say what each key means.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field

from redi_lab.config.schema.base import Count, Seed, Settings, Text, Workers, listed, validated
from redi_lab.config.schema.words import Words
from redi_lab.errors import UserError

BENCHMARKS = ("MATH-500", "AIME24", "AMC23", "Minerva", "Olympiad", "average")
"""What the paper's scores are of, in their order."""
_Numbers = Annotated[list[float], Field(default_factory=list)]


class PaperRun(Settings):
    """A row or curve of the paper, with its numbers."""

    run: str | None = None
    label: Text
    best: bool = False
    scores: _Numbers
    accuracy: _Numbers
    chosen_logps: _Numbers
    rejected_logps: _Numbers
    hours: float | None = None


class Exhibit(Settings):
    """A table or figure."""

    kind: Literal["scores", "curves", "shifts", "settings"]
    title: Text
    runs: list[PaperRun]
    num_samples: Count = 1
    baseline: str = ""
    panels: Annotated[list[str], Field(default_factory=list)]
    shows_first_step: bool = False


class ScaleRun(Settings):
    """A training and the run that it starts from; or a checkpoint, by folder or hub id, and how it is evaluated."""

    overrides: list[str]
    start: str | None = None
    checkpoint: str | None = None


class Scale(Settings):
    """What stands for the paper's runs."""

    seeds: Annotated[list[Seed], Field(min_length=1)]
    training: list[str]
    stage2: list[str]
    evaluation: list[str]
    measures: dict[str, str]
    runs: dict[str, ScaleRun]
    differs: dict[str, str]


class PaperWords(Words):
    """`paper`: `seeds` is how many of the scale's seeds tables have (all by default), `distilled` a model's folder."""

    scale: Literal["embedded", "paper"] = "embedded"
    seeds: Count | None = None
    workers: Workers = 1
    distilled: str | None = None


def load_paper(folder: Path, scale: str) -> tuple[dict[str, Exhibit], Scale]:
    """Read exhibits.yaml and the scale's file in the configuration tree."""
    exhibits, found = (yaml.safe_load((folder / "paper" / f"{name}.yaml").read_bytes()) for name in ("exhibits", scale))
    return {name: validated(Exhibit, content) for name, content in exhibits.items()}, validated(Scale, found)


def select(names: Sequence[str], exhibits: Mapping[str, Any]) -> list[str]:
    """The exhibits that words name: their own names, `tables`, `figures` or `all`, in the paper's order.

    Raises:
        UserError: a name is unknown.
    """
    words = {one: {one, "all", one.rstrip("0123456789") + "s"} for one in exhibits}
    for name in names:
        if not any(name in known for known in words.values()):
            raise UserError(f"paper {name}: unknown; choose {listed(['all', 'tables', 'figures', *exhibits], name)}")
    return [one for one, known in words.items() if known & set(names)]
