"""`python -m redi_lab paper table2`: a table or figure of the paper, made again from trainings that are reused.

Everything that can be refused is refused here, before torch is imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from redi_lab.config.compose import CONFIG_DIR, check_sources, load_config
from redi_lab.config.schema.paper import PaperWords, load_paper, select
from redi_lab.config.schema.words import split_words
from redi_lab.errors import UserError
from redi_lab.run.preflight import check_engine, check_hub, check_model, check_source
from redi_lab.verbs.paper.plan import OF_BOTH, PaperPlan, group


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
    if any(group(override) == "seed" for override in overrides):
        raise UserError(f"paper {overrides[0]}: seeds are the scale's; seeds=N takes the first N of {scale.seeds}")
    if words.distilled is not None:
        if "distilled" not in scale.runs:
            raise UserError(f"distilled={words.distilled}: nothing stands for that model with scale={words.scale}")
        scale.runs["distilled"].checkpoint = words.distilled
    seeds = tuple(scale.seeds[: words.seeds])
    plan = PaperPlan(words.scale, scale, {name: exhibits[name] for name in chosen}, seeds, overrides)
    folder = _check(plan)
    from redi_lab.verbs.paper.exhibits import make_content  # torch: after everything that can be refused
    from redi_lab.verbs.paper.report import PAGE, add_to_report
    from redi_lab.verbs.paper.runs import train_all

    train_all(plan, folder, words.workers)
    for name, exhibit in plan.exhibits.items():
        add_to_report(folder, plan.name, name, make_content(plan, name, exhibit, folder))
    print(f"Report:     {folder / PAGE}")


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
    given = [override for override in plan.overrides if group(override) in OF_BOTH]
    paths = load_config("evaluate", ["checkpoint=.", *given], check_paths=False).paths
    return Path(paths.outputs_dir).absolute() / "paper" / plan.name
