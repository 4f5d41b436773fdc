"""`python -m redi_lab paper table2`: a table or figure of the paper, made again from trainings that are reused.

Everything that can be refused is refused here, before torch is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

from redi_lab.config.compose import CONFIG_DIR, check_sources, load_config
from redi_lab.config.schema.paper import Exhibit, PaperWords, Scale, load_paper, select
from redi_lab.config.schema.words import split_words
from redi_lab.errors import UserError
from redi_lab.run.preflight import check_engine, check_hub, check_model, check_source

_OF_EVALUATIONS = ("eval", "engine", "protocol", "launcher")
_OF_BOTH = ("paths", "debug")


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
        given = [override for override in self.overrides if _group(override) not in _OF_EVALUATIONS]
        return [*scale.training, *stage2, *own.overrides, f"seed={seed}", *given]

    def evaluation(self, run: str, seed: int) -> list[str]:
        """Overrides of an evaluation, without its checkpoint."""
        own = self.scale.runs[run]
        given = [override for override in self.overrides if _group(override) in (*_OF_EVALUATIONS, *_OF_BOTH)]
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


def run_paper(arguments: Sequence[str]) -> None:
    """The verb: list the exhibits, or make those that are named.

    Raises:
        UserError: a name, word or override is not allowed, or something that is to be read is missing.
    """
    words, rest = split_words(PaperWords, [argument for argument in arguments if argument != "--list"])
    exhibits, scale = load_paper(CONFIG_DIR, words.scale)
    chosen = select([argument for argument in rest if "=" not in argument], exhibits)
    overrides = tuple(argument for argument in rest if "=" in argument)
    if not chosen and overrides:
        raise UserError(f"paper {overrides[0]}: name a table or figure, or all; redi-lab paper lists them")
    if not chosen or "--list" in arguments:
        print("\n".join(f"{name:<9} {exhibit.title}" for name, exhibit in exhibits.items()))
        return
    if any(_group(override) == "seed" for override in overrides):
        raise UserError(f"paper {overrides[0]}: seeds are the scale's; seeds=N takes the first N of {scale.seeds}")
    if words.distilled is not None:
        if "distilled" not in scale.runs:
            raise UserError(f"distilled={words.distilled}: nothing stands for that model with scale={words.scale}")
        scale.runs["distilled"].checkpoint = words.distilled
    seeds = tuple(scale.seeds[: words.seeds])
    plan = PaperPlan(words.scale, scale, {name: exhibits[name] for name in chosen}, seeds, overrides)
    folder = _check(plan)
    from redi_lab.verbs.paper.make import make_exhibits

    print(f"Report:     {make_exhibits(plan, folder, words.workers)}")


def _check(plan: PaperPlan) -> Path:
    """Compose every training and evaluation once, and look for what they read; the report's folder."""
    for run, is_scored in {run: is_scored for (run, _), is_scored in plan.needed().items()}.items():
        checkpoint = plan.scale.runs[run].checkpoint
        if checkpoint is not None:
            check_model(run, checkpoint)
        else:
            overrides = plan.training(run, plan.seeds[0])
            config = load_config("train", overrides)
            check_source(config)
            check_hub(config, overrides)
        if is_scored:
            overrides = ["checkpoint=.", *plan.evaluation(run, plan.seeds[0])]
            config = load_config("evaluate", overrides, check_paths=False)
            check_sources(config)
            check_engine(config)
            check_hub(config, overrides)
    given = [override for override in plan.overrides if _group(override) in _OF_BOTH]
    paths = load_config("evaluate", ["checkpoint=.", *given], check_paths=False).paths
    return Path(paths.outputs_dir).absolute() / "paper" / plan.name


def _group(override: str) -> str:
    """Of `+eval@eval.members.x=gsm8k` it is eval."""
    return override.lstrip("+~").partition("=")[0].partition("@")[0].partition(".")[0].partition("/")[0]
