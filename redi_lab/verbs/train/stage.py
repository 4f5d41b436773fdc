"""One stage of a training command: train it or find it, evaluate its checkpoints, and write its summary."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, final

import pytorch_lightning as pl
from omegaconf import DictConfig, OmegaConf
from rich.markup import escape

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.reference import score_reference
from redi_lab.backbone.sharding import layers_to_shard
from redi_lab.callbacks.checkpoints import BEST, BEST_NOTE
from redi_lab.callbacks.collapse import EVENTS
from redi_lab.data.batches import BatchDataset
from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.packing import Reference
from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.figures.samples_page import log_samples
from redi_lab.modules.base import CausalLMModule
from redi_lab.redaction import redacted
from redi_lab.run import build
from redi_lab.run.evaluation import evaluate_checkpoint
from redi_lab.run.model_card import write_cards
from redi_lab.run.record import SUMMARY, make_logger, write_summary
from redi_lab.run.screen import say, waiting
from redi_lab.run.stages import Stage, StageCache, StageRecord
from redi_lab.run.trained import Trained, find_trained
from redi_lab.run.training_record import RECORD_FILE, TrainingRecord
from redi_lab.verbs.train import report
from redi_lab.verbs.train.development import choose_observed, load_development
from redi_lab.verbs.train.fit import Fit
from redi_lab.verbs.train.report import Best, Outcome, ends_of_curves, metrics_of

_NO_TAGS: Mapping[str, str] = MappingProxyType({})


@final
@dataclass(frozen=True)
class Job:
    """All that one stage needs to know of its command.

    Attributes:
        stage: what to train.
        start: the checkpoint that it starts from; None for the weights of the model group.
        benchmark: the problems to evaluate on, with `command_config`'s protocol, so that all stages compare.
        command_config: of the last stage.
        parent_run_id: MLflow run to nest the stage's under.
        earlier: the stages before.
        overrides: those that make the stage, when they are given alone.
        base: the model that the chain started from, see `TrainingRecord`.
        baseline: its score, where that is asked for.
        cache: finished stages.
    """

    stage: Stage
    start: Path | None
    benchmark: Benchmark | None
    command_config: DictConfig
    parent_run_id: str | None
    earlier: tuple[Outcome, ...]
    overrides: tuple[str, ...]
    base: str | None
    baseline: EvaluationResult | None
    cache: StageCache

    def find_or_train(self) -> Outcome:
        """The stage as it was trained before, or as it is trained now, in the cache."""
        with self.cache.place_for(self.stage.fingerprint) as folder:
            record = self.cache.find(self.stage.fingerprint)
            if record is None:
                return self.train(folder)
        say(f"[dim]reused: the same stage was trained before, see {escape(str(record.output_dir))}[/dim]")
        return Outcome(self.stage, record, self._evaluate(record.checkpoint), self._best(record), is_reused=True)

    def train(
        self, folder: Path, further_callbacks: Sequence[pl.Callback] = (), further_tags: Mapping[str, str] = _NO_TAGS
    ) -> Outcome:
        """Train, export, evaluate and record the stage."""
        config, corpus, began = self.stage.config, self.stage.data.corpus, time.time()
        pl.seed_everything(config.seed, workers=True, verbose=False)
        encoder = build.make_encoder(config, build.make_tokenizer(config, corpus, self.start))
        with waiting("Tokenising") as on_progress:
            data = build.make_datamodule(config, corpus, encoder, on_progress)
        report.describe_data(corpus, data)
        report.describe_room(data, self.command_config)
        evaluates_them = self.command_config.eval.benchmark == "development"
        development = load_development(config, self.stage.data, None if evaluates_them else self.benchmark)
        backbone = build.make_backbone(config, encoder.tokenizer, None if self.start is None else str(self.start))
        if config.trainer.strategy == "fsdp2":
            layers_to_shard(backbone)  # before ranks are started
        data.check_positions(backbone.max_positions, backbone.unsupported_window)
        module = build.make_module(config, backbone)
        tags = {
            "redi_lab.stage": self.stage.name,
            "redi_lab.fingerprint": self.stage.fingerprint,
            "data.source": redacted(corpus.source),
            "data.digest": data.digest(),
            **further_tags,
        }
        logger = make_logger(config, folder, self.parent_run_id, tags)
        probes = choose_observed(config, development, data, encoder)
        notes = {RECORD_FILE: redacted(TrainingRecord.of(config, self.base).model_dump())}
        fit = Fit(
            config, self.command_config, folder, self.start, self.parent_run_id, tags, notes, development.benchmark
        )
        record = StageRecord(self.stage.name, folder, fit.checkpoint)
        if find_trained(folder, record.checkpoint) is None:
            self._complete(data, module)
            if config.trainer.devices * config.trainer.num_nodes > 1:
                from redi_lab.verbs.train.ranks import fit_on_ranks  # torch's launcher, which one device does without

                logger.finalize("running")  # the first rank goes on with the record
                fit_on_ranks(fit, data, probes, encoder.tokenizer)
            else:
                fit.run(module, data, probes, encoder, logger, further_callbacks)
        trained = find_trained(folder, record.checkpoint)
        assert trained is not None
        outcome = self._outcome(record, trained, logger)
        sampling = build.accuracy_sampling(config, self.command_config) if config.callbacks.get("accuracy") else None
        about_data = {
            "source": corpus.source,
            "digest": data.digest(),
            "selection": corpus.counts.as_dict(),
            "errors": Counter(pair.error for pair in corpus.pairs if pair.error is not None),
            "batches": data.counts(),
            "development": development.as_dict(sampling),
        }
        about = {"data": about_data, "plan": trained.plan, "mlflow_run_id": logger.version}
        content = self._summary(outcome, trained) | about
        write_summary(folder, config, content | {"seconds": round(time.time() - began, 3)})
        write_cards(folder)
        for file in (
            *(folder / name for name in (SUMMARY, EVENTS)),
            *report.draw_curves(config, folder),
        ):
            if file.exists():
                logger.log_artifact(file)
        logger.finalize("success")
        if trained.is_reusable:
            self.cache.add(self.stage.fingerprint, record)
        return outcome

    def _complete(self, data: TraceDataModule, module: CausalLMModule) -> None:
        """Check and add what the objective needs of its data beyond tokens."""
        if module.needs_pass_rates:
            data.check_pass_rates()
        if module.needs_mismatched:
            for split in data.datasets:
                split.mismatch()
        if module.needs_reference or module.needs_token_reference:
            self._attach_reference(data, module.backbone, keeps_tokens=module.needs_token_reference)

    def _attach_reference(self, data: TraceDataModule, policy: CausalLM, *, keeps_tokens: bool) -> None:
        """Score the data with the frozen reference, in the policy's precision and on its device."""
        config, named = self.stage.config, self.stage.config.loss.get("reference", "init")
        reference = policy if named == "init" else build.make_backbone(config, policy.tokenizer, named)
        for split in data.datasets:
            split.reference = score(config, reference, split, "Reference log-probs", keeps_tokens=keeps_tokens)
        reference.cpu()  # the memory of a device is for the training
        policy.train()

    def _outcome(self, record: StageRecord, trained: Trained, logger: Any) -> Outcome:
        """Score what came of the training, and log it; a trial that a sweep has given up is not worth a score."""
        stop = trained.stop
        if stop is not None:
            say(f"[yellow]training ended after step {stop.step} ({stop.by}): {stop.reason}[/yellow]")
        if stop is not None and stop.by == "pruner":
            return Outcome(self.stage, record, None, None, is_reused=False)
        result, best = self._evaluate(record.checkpoint), self._best(record)
        for name, scored in (("eval", result), ("eval/best", best and best.result)):
            if scored is not None:
                logger.log_metrics({f"{name}/{k}": v for k, v in scored.metrics.items()}, step=trained.global_step)
        if result is not None and self.benchmark is not None:
            log_samples(logger, record.output_dir, [result], [self.benchmark])
        return Outcome(self.stage, record, result, best, is_reused=False)

    def _evaluate(self, checkpoint: Path) -> EvaluationResult | None:
        if self.benchmark is None:
            return None
        name = self.stage.name if checkpoint.name != BEST else f"{self.stage.name} {BEST}"
        return evaluate_checkpoint(self.command_config, checkpoint, self.benchmark, name)

    def _best(self, record: StageRecord) -> Best | None:
        """The checkpoint that was chosen during training; if it holds the last weights, their score is found."""
        folder = record.checkpoint.parent / BEST
        if not (folder / BEST_NOTE).is_file():
            return None
        note = json.loads((folder / BEST_NOTE).read_text(encoding="utf-8"))
        return Best(folder, note, self._evaluate(folder))

    def _summary(self, outcome: Outcome, trained: Trained) -> dict[str, Any]:
        checkpoint = outcome.record.checkpoint
        baseline = self.baseline and {
            "checkpoint": self.base,
            "metrics": metrics_of(self.baseline),
            "evaluation": _evaluation(self.baseline),
        }
        return {
            "name": self.stage.name,
            "verb": "train",
            "loss": OmegaConf.to_container(self.stage.config.loss),
            "metrics": metrics_of(outcome.result),
            "baseline": baseline,
            "training": ends_of_curves(outcome.record.output_dir),
            "evaluation": _evaluation(outcome.result),
            "checkpoint": str(checkpoint),
            "best": outcome.best and outcome.best.as_dict(),
            "checkpoints": sorted(str(path) for path in checkpoint.parent.iterdir() if path.is_dir()),
            "overrides": list(self.overrides),
            "steps": trained.global_step,
            "fingerprint": self.stage.fingerprint,
            "stages": [one.as_dict() for one in (*self.earlier, outcome)],
            "stopped": None if trained.stop is None else asdict(trained.stop),
            "collapse": trained.collapse,
            "skipped_batches": trained.num_skipped,
        }


def score(
    config: DictConfig, model: CausalLM, dataset: BatchDataset, title: str, *, keeps_tokens: bool
) -> Sequence[Sequence[Reference]]:
    """See `score_reference`: on the device and in the precision of a training under `config`."""
    trainer = build.make_trainer(config, [], False, num_devices=1)
    model.to(trainer.strategy.root_device).eval()
    with waiting(title) as on_progress, trainer.precision_plugin.forward_context():
        return score_reference(
            model,
            dataset,
            keeps_tokens=keeps_tokens,
            cache_dir=Path(config.paths.cache_dir) / "reference",
            precision=config.trainer.precision,
            on_progress=on_progress,
        )


def _evaluation(result: EvaluationResult | None) -> dict[str, Any] | None:
    return None if result is None else {"key": result.key, "protocol": dict(result.protocol)}
