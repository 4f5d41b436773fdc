"""`python -m redi_lab`: train the stages of an experiment, judge each, and tell what came out.

Each stage: traces → tokens → batches → policy under an objective → Hugging Face folder → score.
"""

from __future__ import annotations

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
from pytorch_lightning.callbacks import RichProgressBar
from rich.progress import Progress, TaskID

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.reference import reference_logps
from redi_lab.callbacks.collapse import EVENTS
from redi_lab.callbacks.probes import SHIFTED_TOKENS
from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import TraceCorpus
from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.pipeline import build, report
from redi_lab.pipeline.development import Development, load_development, make_observers
from redi_lab.pipeline.evaluate import evaluate_checkpoint, log_samples, nested_metrics, progress_bar
from redi_lab.pipeline.resume import Run, running
from redi_lab.pipeline.run import SUMMARY, command_run, make_logger, quieten_libraries, write_summary
from redi_lab.pipeline.stages import Stage, StageCache, StageRecord, resolve_chain
from redi_lab.pipeline.trained import Trained, find_trained, finish_training
from redi_lab.redaction import redacted

_NO_TAGS: Mapping[str, str] = MappingProxyType({})


@final
@dataclass(frozen=True)
class Outcome:
    """A stage that is trained and judged."""

    stage: Stage
    record: StageRecord
    result: EvaluationResult | None
    is_reused: bool


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
        parent_run_id: MLflow run to nest the stages under; None opens one for the command.
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
    nested = (
        command_run(config, list(overrides), run.parent_run_id) if parent_run_id is None else nullcontext(parent_run_id)
    )
    with nested as parent:
        run.remember_parent(parent)
        for number, stage in enumerate(chain, start=1):
            report.announce(stage.config, number, len(chain))
            start = outcomes[-1].record.checkpoint if outcomes else stage.init
            job = _Job(stage, start, benchmark, config, parent, tuple(outcomes))
            if stage is final:
                outcomes.append(job.train(output_dir, corpora.of(stage), stages, callbacks, tags))
            else:
                outcomes.append(_find_or_train(job, corpora, stages))
    report.finish(config, output_dir, outcomes)
    return output_dir


def _find_or_train(job: _Job, corpora: _Corpora, stages: StageCache) -> Outcome:
    with stages.place_for(job.stage.fingerprint) as folder:
        record = stages.find(job.stage.fingerprint)
        if record is None:
            return job.train(folder, corpora.of(job.stage), stages)
    report.say(f"[dim]reused: the same stage was trained before, see {record.output_dir}[/dim]")
    return Outcome(job.stage, record, job.judge(record.checkpoint), is_reused=True)


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
        callbacks = [
            *build.make_callbacks(config, record.checkpoint.parent, encoder.end_of_turn_id, observers),
            *further_callbacks,
        ]
        trainer = build.make_trainer(config, [*callbacks, RichProgressBar(refresh_rate=10)], logger)
        if module.needs_reference:
            self._attach_reference(data, backbone, trainer)
        trained = find_trained(folder, record.checkpoint)
        if trained is None:
            with grader:
                trainer.fit(module, datamodule=data)
            trained = finish_training(folder, record.checkpoint, trainer, callbacks)
        result = self._judge_trained(record, trained, logger)
        self._summarise(record, corpus, data, development, result, trained, logger.version, time.time() - began)
        _log_files(config, folder, logger)
        logger.finalize("success")
        if trained.is_reusable:
            stages.add(self.stage.fingerprint, record)
        return Outcome(self.stage, record, result, is_reused=False)

    def judge(self, checkpoint: Path) -> EvaluationResult | None:
        """Score under the command's protocol, so that all stages of a table are judged alike."""
        if self.benchmark is None:
            return None
        return evaluate_checkpoint(self.command_config, checkpoint, self.benchmark, self.stage.name)

    def _judge_trained(self, record: StageRecord, trained: Trained, logger: Any) -> EvaluationResult | None:
        """Score what came of the training, and log it; a trial that a sweep has given up is not worth a score."""
        stop = trained.stop
        if stop is not None:
            report.say(f"[yellow]training ended after step {stop.step} ({stop.by}): {stop.reason}[/yellow]")
        result = None if stop is not None and stop.by == "pruner" else self.judge(record.checkpoint)
        if result is not None and self.benchmark is not None:
            logger.log_metrics({f"eval/{k}": v for k, v in result.metrics.items()}, step=trained.global_step)
            log_samples(logger, record.output_dir, [result], [self.benchmark])
        return result

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
        record: StageRecord,
        corpus: TraceCorpus,
        data: TraceDataModule,
        development: Development,
        result: EvaluationResult | None,
        trained: Trained,
        run_id: str | None,
        seconds: float,
    ) -> None:
        config = self.stage.config
        loss = OmegaConf.to_container(config.loss)
        stages = [*self.earlier, Outcome(self.stage, record, result, is_reused=False)]
        write_summary(
            record.output_dir,
            config,
            {
                "name": self.stage.name,
                "verb": "train",
                "loss": loss,
                "metrics": {} if result is None else nested_metrics(result.metrics),
                "evaluation": None if result is None else {"key": result.key, "protocol": dict(result.protocol)},
                "checkpoint": str(record.checkpoint),
                "checkpoints": sorted(str(path) for path in record.checkpoint.parent.iterdir() if path.is_dir()),
                "fingerprint": self.stage.fingerprint,
                "data": {"source": corpus.source, "digest": data.digest(), "selection": corpus.counts.as_dict()}
                | {"batches": data.counts(), "development": development.as_dict()},
                "stages": [_stage_summary(outcome) for outcome in stages],
                "stopped": None if trained.stop is None else asdict(trained.stop),
                "collapse": trained.collapse,
                "skipped_batches": trained.num_skipped,
                "mlflow_run_id": run_id,
                "seconds": round(seconds, 3),
            },
        )


def _log_files(config: DictConfig, folder: Path, logger: Any) -> None:
    """Put summary, records of callbacks and curves into the run."""
    for name in (SUMMARY, SHIFTED_TOKENS, EVENTS):
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
    }
