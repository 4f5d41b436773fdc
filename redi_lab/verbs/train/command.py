"""`python -m redi_lab`: train the stages of an experiment, evaluate each, and say what came out.

Each stage: traces → tokens → batches → policy under an objective → Hugging Face folder → score.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import pytorch_lightning as pl
from omegaconf import DictConfig

from redi_lab.backbone.hub import local_folder
from redi_lab.config.compose import earlier_overrides
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.run import build
from redi_lab.run.benchmarks import make_benchmark
from redi_lab.run.evaluation import evaluate_checkpoint
from redi_lab.run.interrupted import running
from redi_lab.run.record import quieten_libraries
from redi_lab.run.stages import Stage, StageCache, resolve_chain
from redi_lab.verbs.train import report
from redi_lab.verbs.train.report import Outcome
from redi_lab.verbs.train.stage import Job

_NO_TAGS: Mapping[str, str] = MappingProxyType({})


def run_training(
    config: DictConfig,
    overrides: Sequence[str],
    callbacks: Sequence[pl.Callback] = (),
    parent_run_id: str | None = None,
    tags: Mapping[str, str] = _NO_TAGS,
) -> Path:
    """Train the chain of stages that ends in `config`, reusing what exists, and write the results folder.

    Args:
        config: composed and checked.
        overrides: those that made it, which earlier stages partly take over.
        callbacks: further ones for the last stage, in addition to those of the callbacks group.
        parent_run_id: MLflow run to nest the stages under.
        tags: further ones of the last stage's MLflow run.

    Returns:
        The results folder, with summary.json.

    Raises:
        UserError: something that a user can mend, before training begins.
    """
    quieten_libraries()
    if callbacks and config.trainer.devices * config.trainer.num_nodes > 1:
        raise UserError(f"trainer.devices={config.trainer.devices}: a sweep's trials train on one device each; drop it")
    if config.rounds is not None:
        raise UserError(f"rounds={config.rounds}: a sweep's trials are single trainings; drop it")
    chain = resolve_chain(config, overrides)
    with running(config, overrides, chain) as run:
        benchmark = make_benchmark(config, lambda: chain[-1].data.corpus)
        base = _base_model(chain[0], is_wanted=config.baseline)
        baseline = _baseline(config, chain[0], base, benchmark)
        outcomes: list[Outcome] = []
        jobs = _jobs(chain, config, overrides, outcomes, benchmark, parent_run_id, base, baseline)
        outcomes += (next(jobs).find_or_train() for _ in chain[:-1])
        outcomes.append(next(jobs).train(run.folder, callbacks, tags))
        report.finish(run.folder, outcomes, baseline)
        return run.folder


def find_start(chain: Sequence[Stage], config: DictConfig, overrides: Sequence[str], parent_run_id: str | None) -> Path:
    """The checkpoint that the last stage of a chain starts from; the stages before it are trained unless they were.

    Args:
        chain: the stages.
        config: of the last.
        overrides: of the last.
        parent_run_id: MLflow run to nest the others under.
    """
    base, outcomes = _base_model(chain[0], is_wanted=len(chain) == 1), list[Outcome]()
    jobs = _jobs(chain, config, overrides, outcomes, None, parent_run_id, base, None)
    outcomes += (next(jobs).find_or_train() for _ in chain[:-1])
    return next(jobs).start or Path(base or "")


def _jobs(
    chain: Sequence[Stage],
    config: DictConfig,
    overrides: Sequence[str],
    outcomes: Sequence[Outcome],
    benchmark: Benchmark | None,
    parent_run_id: str | None,
    base: str | None,
    baseline: EvaluationResult | None,
) -> Iterator[Job]:
    """The stages one by one, each from what came of the one before, which must be in `outcomes` by then."""
    stages = StageCache(Path(config.paths.cache_dir))
    for number, (stage, command) in enumerate(zip(chain, _commands(chain, overrides), strict=True), start=1):
        report.announce(stage.config, number, len(chain))
        start = outcomes[-1].record.checkpoint if outcomes else stage.init
        yield Job(stage, start, benchmark, config, parent_run_id, tuple(outcomes), command, base, baseline, stages)


def _commands(chain: Sequence[Stage], overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """The overrides that make each stage of a chain, when they are given alone."""
    commands = [tuple(overrides)]
    for stage in chain[:0:-1]:
        commands.insert(0, tuple(earlier_overrides(stage.config, commands[0])))
    return commands


def _base_model(first: Stage, *, is_wanted: bool) -> str | None:
    """The folder of the model that a chain starts from, or its hub id; None for a student made from scratch.

    Where it is to be evaluated, it is a folder: that of the hub's cache.

    Raises:
        UserError: it is to be evaluated, but there is none.
    """
    path, revision = first.config.model.path, first.config.model.revision
    if first.init is not None:
        return str(first.init)
    if path is None:
        if is_wanted:
            raise UserError("baseline=true: a student made from scratch has no base model; drop it, or give model.path")
        return None
    if is_wanted or Path(path).is_dir():
        return str(local_folder(path, revision))
    return str(path) if revision is None else None


def _baseline(
    config: DictConfig, first: Stage, base: str | None, benchmark: Benchmark | None
) -> EvaluationResult | None:
    """The score of the model that training starts from, where it is asked for."""
    if not config.baseline or base is None or benchmark is None:
        return None
    tokenizer = build.make_tokenizer(first.config, first.data.corpus, first.init)
    return evaluate_checkpoint(config, Path(base), benchmark, "the base model", tokenizer)
