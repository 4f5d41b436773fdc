"""Trains what is missing for the paper's exhibits, and evaluates it.

A training is found by its fingerprint and by what is measured in it: exhibits share trainings, and a first stage that
the verb `train` made with the same measurements counts, too.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from redi_lab.backbone.hub import local_folder
from redi_lab.callbacks.checkpoints import BEST
from redi_lab.callbacks.probes import PROBES_FILE
from redi_lab.config.compose import load_config
from redi_lab.config.overrides import quoted
from redi_lab.evaluation.results import EvaluationResult, content_digest
from redi_lab.executor.crew import Crew
from redi_lab.executor.local import share_of_machine, starter
from redi_lab.run.benchmarks import asks_data, make_benchmarks
from redi_lab.run.build import make_source
from redi_lab.run.evaluation import evaluate_benchmarks
from redi_lab.run.record import SUMMARY, quieten_libraries, read_summary
from redi_lab.run.screen import say, send_screen_to
from redi_lab.run.stages import StageCache, resolve_chain
from redi_lab.run.training_record import read_record, settle_protocol
from redi_lab.verbs.paper.plan import PaperPlan
from redi_lab.verbs.train.command import run_training

Item = tuple[str, int, bool]
"""Run, seed, and whether it is scored."""
_DECODING = ("prompt_template", "thinking_prefix", "temperature", "top_p", "max_new_tokens", "seed")


def train_all(plan: PaperPlan, folder: Path, workers: int) -> None:
    """Train and evaluate what is missing.

    Args:
        plan: what is asked for.
        folder: of the report; with several workers also of their screen.
        workers: trainings at once.
    """
    quieten_libraries()
    needed = [(run, seed, is_scored) for (run, seed), is_scored in plan.needed().items()]
    for is_start in (True, False):
        items = [item for item in needed if (plan.scale.runs[item[0]].start is None) is is_start]
        if (number := min(workers, len(items))) < 2:
            for item in items:
                train_and_score(plan, item)
            continue
        share = partial(share_of_machine, num_workers=number, gpus=None, key="workers")
        with closing(Crew(starter(None, partial(_make_work, plan, folder), share), number)) as crew:
            for (run, seed, _), _ in crew.run(iter(items)):
                say(f"{run}, seed {seed}: done")


def _make_work(plan: PaperPlan, folder: Path) -> Callable[[Item], None]:
    """In a worker: several screens would be one muddle."""
    send_screen_to(folder / "workers.log")
    quieten_libraries()
    return partial(train_and_score, plan)


def train_and_score(plan: PaperPlan, item: Item) -> None:
    """One training, and the evaluations that tables ask of it."""
    run, seed, is_scored = item
    if plan.scale.runs[run].checkpoint is None:
        folder, is_there = find_run(plan, run, seed)
        if not is_there:
            overrides = [*_command(plan, run, seed), f"paths.output_dir={quoted(str(folder))}"]
            run_training(load_config("train", overrides), overrides)
    if is_scored:
        tables = [exhibit for exhibit in plan.exhibits.values() if exhibit.kind == "scores"]
        for best in {row.best for exhibit in tables for row in exhibit.runs if row.run == run}:
            results_of(plan, run, seed, best=best)


def find_run(plan: PaperPlan, run: str, seed: int) -> tuple[Path, bool]:
    """The folder of a training, and whether the training is finished; what it starts from has to be."""
    overrides = _command(plan, run, seed)
    config = load_config("train", overrides)
    fingerprint = resolve_chain(config, overrides)[-1].fingerprint
    measured = what_is_measured(OmegaConf.to_container(config))
    name = f"{config.name}_s{seed}_{content_digest([fingerprint, measured])[:12]}"
    folder = Path(config.paths.outputs_dir).absolute() / "paper" / "runs" / name
    if (folder / SUMMARY).exists():
        return folder, True
    found = StageCache(Path(config.paths.cache_dir)).find(fingerprint)
    if found is None or not all((found.output_dir / file).exists() for file in (SUMMARY, PROBES_FILE)):
        return folder, False
    is_same = what_is_measured(read_summary(found.output_dir)["config"]) == measured
    return (found.output_dir, True) if is_same else (folder, False)


def _command(plan: PaperPlan, run: str, seed: int) -> list[str]:
    """Overrides of a training, whose start is the very training that the plan names, whatever the command line said."""
    start = plan.scale.runs[run].start
    if start is None:
        return plan.training(run, seed)
    checkpoint = find_run(plan, start, seed)[0] / "checkpoints" / "last"
    return [*plan.training(run, seed), f"init_from={quoted(str(checkpoint))}"]


def what_is_measured(config: Any) -> list[Any]:
    """What decides the curves of a training beside its fingerprint, of its configuration."""
    data, decoding = config["data"], [config["eval"][key] for key in _DECODING]
    return [config["callbacks"], data["num_development"], data["development_path"], decoding]


def results_of(plan: PaperPlan, run: str, seed: int, *, best: bool) -> list[EvaluationResult]:
    """Results on every benchmark, as they are stored or made now.

    Args:
        plan: what is asked for.
        run: a finished training, or a checkpoint.
        seed: of both training and problems.
        best: the checkpoint that was best during training, where one was chosen, and not the last one.
    """
    checkpoint = plan.scale.runs[run].checkpoint
    if checkpoint is None:
        written = find_run(plan, run, seed)[0] / "checkpoints"
        folder = written / BEST if best and (written / BEST).is_dir() else written / "last"
    else:
        folder = local_folder(checkpoint, key=run)
    config = load_config("evaluate", [f"checkpoint={folder}", *plan.evaluation(run, seed)])
    note = settle_protocol(config, folder, read_record(folder), asks_data(config))
    if note is not None:
        say(note)
    benchmarks = make_benchmarks(config, lambda: make_source(config).load())
    return evaluate_benchmarks(config, folder, benchmarks, f"{run}, seed {seed}")
