"""What one command of `paper` asks for: which trainings, with which overrides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from redi_lab.config.schema.paper import Exhibit, Scale

_OF_EVALUATIONS = ("eval", "engine", "protocol", "launcher")
OF_BOTH = ("paths", "debug")


@final
@dataclass(frozen=True)
class PaperPlan:
    """What a command asks for.

    Attributes:
        name: of the scale.
        scale: what stands for the paper's runs.
        exhibits: those that are made, by name.
        seeds: of score tables; other exhibits have the first.
        overrides: of the command line, after all others.
    """

    name: str
    scale: Scale
    exhibits: dict[str, Exhibit]
    seeds: tuple[int, ...]
    overrides: tuple[str, ...]

    def training(self, run: str, seed: int) -> list[str]:
        """Overrides of a training."""
        scale, own = self.scale, self.scale.runs[run]
        stage2 = [] if own.start is None else scale.stage2
        given = [override for override in self.overrides if group(override) not in _OF_EVALUATIONS]
        return [*scale.training, *stage2, *own.overrides, f"seed={seed}", *given]

    def evaluation(self, run: str, seed: int) -> list[str]:
        """Overrides of an evaluation, without its checkpoint."""
        own = self.scale.runs[run]
        given = [override for override in self.overrides if group(override) in (*_OF_EVALUATIONS, *OF_BOTH)]
        return [*self.scale.evaluation, *(own.overrides if own.checkpoint else []), f"seed={seed}", *given]

    def needed(self) -> dict[tuple[str, int], bool]:
        """Runs and seeds, and whether they are scored: checkpoints first, then trainings that others start from."""
        runs, wanted = self.scale.runs, dict[tuple[str, int], bool]()
        for exhibit in self.exhibits.values():
            is_scored = exhibit.kind == "scores"
            names = [row.run for row in exhibit.runs if row.run in runs and exhibit.kind != "settings"]
            for seed in self.seeds if is_scored else self.seeds[:1]:
                for name in (one for one in names if one is not None):
                    wanted[name, seed] = wanted.get((name, seed), False) or is_scored
        starts = {(start, seed): False for name, seed in wanted if (start := runs[name].start) is not None}
        ranked = {name: (own.start is not None, own.checkpoint is None) for name, own in runs.items()}
        return dict(sorted((starts | wanted).items(), key=lambda item: ranked[item[0][0]]))


def group(override: str) -> str:
    """Of `+eval@eval.members.x=gsm8k` it is eval."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].partition(".")[0].partition("/")[0]
