"""What conf/paper holds: the paper's exhibits with its numbers, and what stands for its runs at a scale."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import Field, model_validator

from redi_lab.config.schema.base import Count, Seed, Settings, Text, Workers, listed, validated
from redi_lab.config.schema.words import Words
from redi_lab.errors import UserError

BENCHMARKS = ("MATH-500", "AIME24", "AMC23", "Minerva", "Olympiad", "average")
"""What the paper's scores are of, in their order."""
_Numbers = Annotated[list[float], Field(default_factory=list)]


class PaperRun(Settings):
    """A row or curve of the paper, and its numbers.

    Attributes:
        run: name of what stands for it at a scale; None: nothing does.
        label: what the paper trained.
        best: whether the paper shows the best checkpoint, or the last one.
        scores: percent, on `BENCHMARKS`.
        accuracy: percent on MATH-500 at steps 0, 200, …, and the last.
        chosen_logps, rejected_logps: first and last mean log-prob per token.
        hours: GPU-hours.
    """

    run: str | None = None
    label: Text
    best: bool = False
    scores: _Numbers
    accuracy: _Numbers
    chosen_logps: _Numbers
    rejected_logps: _Numbers
    hours: float | None = None


class Exhibit(Settings):
    """A table or figure.

    Attributes:
        kind: scores of checkpoints; curves of trainings; shifts of log-probs of single traces; or settings and costs.
        title: what it shows.
        runs: its rows or curves.
        metric: of scores.
        baseline: the run that scores are compared with.
        panels: metrics that figures plot; none: the paper's four.
        shows_first_step: whether the table of curves has the size of the first step.
    """

    kind: Literal["scores", "curves", "shifts", "settings"]
    title: Text
    runs: list[PaperRun]
    metric: Literal["pass_at_1", "pass_at_16"] = "pass_at_1"
    baseline: str | None = None
    panels: Annotated[list[str], Field(default_factory=list)]
    shows_first_step: bool = False


class ScaleRun(Settings):
    """A training: overrides, and the run whose policy it starts from."""

    overrides: list[str]
    start: str | None = None


class ScaleModel(Settings):
    """A model that is evaluated and not trained: folder or hub id, and overrides of its evaluation."""

    checkpoint: str
    evaluation: list[str]


class Scale(Settings):
    """What stands for the paper's runs.

    Attributes:
        seeds: of the score tables; other exhibits show the first.
        training: overrides of every training.
        stage2: and of those that start from another.
        evaluation: overrides of every evaluation.
        measures: further columns of score tables, heading to metric.
        models: by name of a run, what is evaluated without training.
        runs: trainings by name.
        differs: what differs from the paper, by exhibit.
    """

    seeds: list[Seed] = Field(min_length=1)
    training: list[str]
    stage2: list[str]
    evaluation: list[str]
    measures: dict[str, str]
    models: dict[str, ScaleModel]
    runs: dict[str, ScaleRun]
    differs: dict[str, str]

    @model_validator(mode="after")
    def _check_starts(self) -> Self:
        for name, run in self.runs.items():
            if run.start is not None and (run.start not in self.runs or self.runs[run.start].start is not None):
                raise UserError(f"runs.{name}.start={run.start}: must be a run that starts from none")
        return self


class Exhibits(Settings, extra="allow"):
    """All of them, by name."""

    __pydantic_extra__: dict[str, Exhibit]


class PaperWords(Words):
    """`paper`: `seeds` is how many of the scale's seeds tables have (all by default), `distilled` a model's folder."""

    scale: Literal["embedded", "paper"] = "embedded"
    seeds: Count | None = None
    workers: Workers = 1
    distilled: str | None = None


def load_paper(folder: Path, scale: str) -> tuple[dict[str, Exhibit], Scale]:
    """Read exhibits.yaml and the scale's file in the configuration tree."""
    exhibits, found = (
        validated(model, _read(folder / "paper" / f"{name}.yaml"))
        for model, name in ((Exhibits, "exhibits"), (Scale, scale))
    )
    assert isinstance(exhibits, Exhibits)
    assert isinstance(found, Scale)
    return exhibits.__pydantic_extra__, found


def select(names: list[str], exhibits: dict[str, Exhibit]) -> list[str]:
    """The exhibits that words name: their own names, `tables`, `figures` or `all`, in the paper's order.

    Raises:
        UserError: a name is unknown.
    """
    chosen = set[str]()
    for name in names:
        found = [one for one in exhibits if name in (one, "all") or name == one.rstrip("0123456789") + "s"]
        if not found:
            known = ["all", "tables", "figures", *exhibits]
            raise UserError(f"paper {name}: unknown; choose {listed(known, name)}")
        chosen.update(found)
    return [name for name in exhibits if name in chosen]


def _read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))
