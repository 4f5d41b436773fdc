"""`python -m redi_lab`: train the stages of an experiment, judge each, and tell what came out.

Each stage: traces → tokens → batches → policy under an objective → Hugging Face folder → score.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape
from rich.progress import Progress, TaskID

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.hub import local_folder
from redi_lab.backbone.reference import reference_logps
from redi_lab.callbacks.checkpoints import BEST, BEST_NOTE
from redi_lab.callbacks.collapse import EVENTS
from redi_lab.callbacks.forecast import Forecast
from redi_lab.callbacks.training_progress import COLUMN, TrainingProgress
from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import TraceCorpus
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.figures.samples_page import log_samples
from redi_lab.redaction import redacted
from redi_lab.run import build
from redi_lab.run.evaluation import evaluate_checkpoint, nested_metrics
from redi_lab.run.interrupted import Run, running
from redi_lab.run.record import SUMMARY, command_run, make_logger, quieten_libraries, write_summary
from redi_lab.run.screen import progress_bar, say
from redi_lab.run.stages import Best, Outcome, Stage, StageCache, StageRecord, resolve_chain
from redi_lab.run.trained import Trained, find_trained, finish_training
from redi_lab.run.training_record import RECORD_FILE, TrainingRecord
from redi_lab.verbs.train import report
from redi_lab.verbs.train.development import Development, load_development, make_observers

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
        callbacks: further ones for the last stage, besides those of the callbacks group.
        parent_run_id: MLflow run to nest the stages under, or the folder of its record; None opens one for the command.
        tags: further ones of the last stage's MLflow run.

    Returns:
        The results folder, with summary.json.

    Raises:
        UserError: something that a user can mend, before training begins.
    """
    quieten_libraries()
    chain = resolve_chain(config, overrides)
    with running(config, overrides, chain) as run:
        return _train_chain(config, overrides, chain, run, callbacks, parent_run_id, tags)


def _train_chain(
    config: DictConfig,
    overrides: Sequence[str],
    chain: Sequence[Stage],
    run: Run,
    callbacks: Sequence[pl.Callback],
    parent_run_id: str | None,
    tags: Mapping[str, str],
) -> Path:
    output_dir, final = run.folder, chain[-1]
    corpora = _Corpora()
    benchmark = build.make_benchmark(config, lambda: corpora.of(final))
    stages = StageCache(Path(config.paths.cache_dir))
    outcomes: list[Outcome] = []
    nested = command_run(config, overrides, output_dir) if parent_run_id is None else nullcontext(parent_run_id)
    base = _base_model(chain[0], is_wanted=config.baseline)
    if config.baseline and base is None:
        raise UserError("baseline=true: a student made from scratch has no base model; drop it, or give model.path")
    with nested as parent:
        baseline = None
        if config.baseline and base is not None and benchmark is not None:
            tokenizer = build.make_tokenizer(chain[0].config, corpora.of(chain[0]), chain[0].init)
            baseline = evaluate_checkpoint(config, Path(base), benchmark, "the base model", tokenizer)
        for number, stage in enumerate(chain, start=1):
            report.announce(stage.config, number, len(chain))
            start = outcomes[-1].record.checkpoint if outcomes else stage.init
            job = _Job(stage, start, benchmark, config, parent, tuple(outcomes), base, baseline)
            if stage is final:
                outcomes.append(job.train(output_dir, corpora.of(stage), stages, callbacks, tags))
            else:
                outcomes.append(_find_or_train(job, corpora, stages))
    report.finish(config, output_dir, outcomes, baseline)
    return output_dir


def _base_model(first: Stage, *, is_wanted: bool) -> str | None:
    """The folder of the model that a chain starts from, or its hub id; None for a student made from scratch.

    Where it is wanted now, it is a folder: that of the hub's cache.
    """
    path, revision = first.config.model.path, first.config.model.revision
    if first.init is not None or path is None:
        return None if first.init is None else str(first.init)
    if is_wanted or Path(path).is_dir():
        return str(local_folder(path, revision))
    return str(path) if revision is None else None


def _find_or_train(job: _Job, corpora: _Corpora, stages: StageCache) -> Outcome:
    with stages.place_for(job.stage.fingerprint) as folder:
        record = stages.find(job.stage.fingerprint)
        if record is None:
            return job.train(folder, corpora.of(job.stage), stages)
    say(f"[dim]reused: the same stage was trained before, see {escape(str(record.output_dir))}[/dim]")
    return Outcome(job.stage, record, job.judge(record.checkpoint), job.judge_best(record), is_reused=True)


@final
class _Corpora:
    """Stages of one chain mostly share their traces: each corpus is read once."""

    def __init__(self) -> None:
        self._loaded: dict[str, TraceCorpus] = {}

    def of(self, stage: Stage) -> TraceCorpus:
        """The corpus of a stage."""
        with progress_bar() as progress:
            task = progress.add_task(f"Reading traces of {stage.name}", total=None)
            source = build.make_source(stage.config, partial(_advance, progress, task))
            digest = source.digest()
            if digest not in self._loaded:
                self._loaded[digest] = source.load()
            progress.update(task, visible=False)
        return self._loaded[digest]


@final
@dataclass(frozen=True)
class _Job:
    """All that training one stage needs to know."""

    stage: Stage
    start: Path | None
    benchmark: Benchmark | None
    command_config: DictConfig
    parent_run_id: str | None
    earlier: tuple[Outcome, ...]
    base: str | None
    baseline: EvaluationResult | None

    def train(
        self,
        folder: Path,
        corpus: TraceCorpus,
        stages: StageCache,
        further_callbacks: Sequence[pl.Callback] = (),
        further_tags: Mapping[str, str] = _NO_TAGS,
    ) -> Outcome:
        """Train, export, judge and record the stage."""
        config, began = self.stage.config, time.time()
        pl.seed_everything(config.seed, workers=True, verbose=False)
        encoder = build.make_encoder(config, build.make_tokenizer(config, corpus, self.start))
        data = self._tokenise(corpus, encoder)
        report.describe_data(corpus, data)
        report.describe_room(data, self.command_config)
        development = load_development(config, corpus, self.benchmark)
        backbone = build.make_backbone(config, encoder.tokenizer, None if self.start is None else str(self.start))
        build.check_positions(data, backbone)
        module = build.make_module(config, backbone)
        tags = {"redi_lab.stage": self.stage.name, "redi_lab.fingerprint": self.stage.fingerprint, **further_tags}
        logger = make_logger(config, folder, self.parent_run_id, tags)
        source = redacted(corpus.source)
        logger.log_dataset(source, data.digest(), source, len(data.train_examples))
        record = StageRecord(self.stage.name, folder, folder / "checkpoints" / "last")
        grader = build.make_grader(self.command_config)
        observers = make_observers(config, self.command_config, development, data, encoder, grader, folder)
        notes = {RECORD_FILE: redacted(TrainingRecord.of(config, self.base).as_dict())}
        callbacks = [
            *build.make_callbacks(config, record.checkpoint.parent, encoder.end_of_turn_id, observers, notes),
            Forecast(say),
            *further_callbacks,
        ]
        trainer = build.make_trainer(config, [*callbacks, TrainingProgress(progress_bar(COLUMN))], logger)
        if module.needs_reference:
            self._attach_reference(data, backbone, trainer)
        trained = find_trained(folder, record.checkpoint)
        if trained is None:
            with grader:
                trainer.fit(module, datamodule=data)
            trained = finish_training(folder, record.checkpoint, trainer, callbacks)
        outcome = self._judge_trained(record, trained, logger)
        self._summarise(outcome, corpus, data, development, trained, logger.version, time.time() - began)
        _log_files(config, folder, logger)
        logger.finalize("success")
        if trained.is_reusable:
            stages.add(self.stage.fingerprint, record)
        return outcome

    def judge(self, checkpoint: Path) -> EvaluationResult | None:
        """Score under the command's protocol, so that all stages of a table are judged alike."""
        if self.benchmark is None:
            return None
        name = self.stage.name if checkpoint.name != BEST else f"{self.stage.name} {BEST}"
        return evaluate_checkpoint(self.command_config, checkpoint, self.benchmark, name)

    def judge_best(self, record: StageRecord) -> Best | None:
        """The checkpoint that was chosen during training, scored; None where none was.

        If it holds the last weights, their score is found rather than made again.
        """
        folder = record.checkpoint.parent / BEST
        if not (folder / BEST_NOTE).is_file():
            return None
        note = json.loads((folder / BEST_NOTE).read_text(encoding="utf-8"))
        return Best(folder, note, self.judge(folder))

    def _judge_trained(self, record: StageRecord, trained: Trained, logger: Any) -> Outcome:
        """Score what came of the training, and log it; a trial that a sweep has given up is not worth a score."""
        stop = trained.stop
        if stop is not None:
            say(f"[yellow]training ended after step {stop.step} ({stop.by}): {stop.reason}[/yellow]")
        if stop is not None and stop.by == "pruner":
            return Outcome(self.stage, record, None, None, is_reused=False)
        result, best = self.judge(record.checkpoint), self.judge_best(record)
        for name, scored in (("eval", result), ("eval/best", best and best.result)):
            if scored is not None:
                logger.log_metrics({f"{name}/{k}": v for k, v in scored.metrics.items()}, step=trained.global_step)
        if result is not None and self.benchmark is not None:
            log_samples(logger, record.output_dir, [result], [self.benchmark])
        return Outcome(self.stage, record, result, best, is_reused=False)

    def _tokenise(self, corpus: TraceCorpus, encoder: TraceEncoder) -> TraceDataModule:
        with progress_bar() as progress:
            task = progress.add_task("Tokenising", total=None)
            data = build.make_datamodule(self.stage.config, corpus, encoder, partial(_advance, progress, task))
            progress.update(task, visible=False)
        return data

    def _attach_reference(self, data: TraceDataModule, policy: CausalLM, trainer: pl.Trainer) -> None:
        """Score the data with the frozen reference, in the policy's precision and on its device."""
        config = self.stage.config
        named = config.loss.reference
        reference = policy if named == "init" else build.make_backbone(config, policy.tokenizer, named)
        reference.to(trainer.strategy.root_device).eval()
        with progress_bar() as progress, trainer.precision_plugin.forward_context():
            for split in (s for s in (data.train_set, data.val_set) if s.examples):
                task = progress.add_task("Reference log-probs", total=len(split.examples))
                split.reference_logps = reference_logps(
                    reference,
                    split,
                    cache_dir=Path(config.paths.cache_dir) / "reference",
                    precision=config.trainer.precision,
                    on_progress=partial(_advance, progress, task),
                )
        policy.train()

    def _summarise(
        self,
        outcome: Outcome,
        corpus: TraceCorpus,
        data: TraceDataModule,
        development: Development,
        trained: Trained,
        run_id: str | None,
        seconds: float,
    ) -> None:
        config = self.stage.config
        has_accuracy = bool(config.callbacks.get("accuracy"))
        sampling = build.accuracy_sampling(config, self.command_config) if has_accuracy else None
        loss = OmegaConf.to_container(config.loss)
        record, result = outcome.record, outcome.result
        write_summary(
            record.output_dir,
            config,
            {
                "name": self.stage.name,
                "verb": "train",
                "loss": loss,
                "metrics": {} if result is None else nested_metrics(result.metrics),
                "baseline": self.baseline
                and {
                    "checkpoint": self.base,
                    "metrics": nested_metrics(self.baseline.metrics),
                    "evaluation": {"key": self.baseline.key, "protocol": dict(self.baseline.protocol)},
                },
                "evaluation": None if result is None else {"key": result.key, "protocol": dict(result.protocol)},
                "checkpoint": str(record.checkpoint),
                "best": outcome.best and outcome.best.as_dict(),
                "checkpoints": sorted(str(path) for path in record.checkpoint.parent.iterdir() if path.is_dir()),
                "fingerprint": self.stage.fingerprint,
                "data": {"source": corpus.source, "digest": data.digest(), "selection": corpus.counts.as_dict()}
                | {"batches": data.counts(), "development": development.as_dict(sampling)},
                "stages": [_stage_summary(outcome) for outcome in (*self.earlier, outcome)],
                "stopped": None if trained.stop is None else asdict(trained.stop),
                "collapse": trained.collapse,
                "skipped_batches": trained.num_skipped,
                "mlflow_run_id": run_id,
                "seconds": round(seconds, 3),
            },
        )


def _log_files(config: DictConfig, folder: Path, logger: Any) -> None:
    """Put summary, records of callbacks and curves into the run."""
    for name in (SUMMARY, EVENTS):
        if (folder / name).exists():
            logger.log_artifact(folder / name)
    for figure in report.draw_curves(config, folder):
        logger.log_artifact(figure)


def _advance(progress: Progress, task: TaskID, done: int, total: int | None) -> None:
    progress.update(task, completed=done, total=total)


def _stage_summary(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.stage.name,
        "fingerprint": outcome.stage.fingerprint,
        "checkpoint": str(outcome.record.checkpoint),
        "output_dir": str(outcome.record.output_dir),
        "is_reused": outcome.is_reused,
        "metrics": {} if outcome.result is None else nested_metrics(outcome.result.metrics),
        "best": outcome.best and outcome.best.as_dict(),
    }
