"""A whole configuration of each verb that has one, and the rules across its groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from redi_lab.config.metrics import CALLBACK_METRICS, GRADIENT_METRICS, known_metrics
from redi_lab.config.schema.base import Count, Name, Seed, Settings, Text, listed
from redi_lab.config.schema.callbacks import Callbacks
from redi_lab.config.schema.curation import CurationConfig, OmegaConfig, StepsConfig
from redi_lab.config.schema.data import DataConfig, ReasoningGymSourceConfig
from redi_lab.config.schema.evaluation import Engine, EvalConfig, SequentialConfig, StopConfig, VLLMEngineConfig
from redi_lab.config.schema.losses import Loss, ReferenceConfig, RewardConfig
from redi_lab.config.schema.surroundings import DebugConfig, LauncherConfig, LoggerConfig, PathsConfig
from redi_lab.config.schema.sweep import SweepConfig
from redi_lab.config.schema.training import ModelConfig, Optimizer, SchedulerConfig, TrainerConfig
from redi_lab.config.schema.verifiers import WITHOUT_ANSWERS, Verifier
from redi_lab.errors import UserError


class _Verb(Settings):
    name: Name
    seed: Seed
    paths: PathsConfig
    debug: DebugConfig


def _refuse_conditions(settings: EvalConfig, what: str) -> None:
    if settings.has_conditions:
        raise UserError(
            f"eval.conditions: {what} asks each problem in one way; choose another protocol, and use this one with"
            " evaluate checkpoint=FOLDER"
        )


class TrainVerb(_Verb):
    """`train`, and each of its stages."""

    resume: Literal["auto", "never"]
    baseline: bool
    init_from: Text | None
    init_overrides: list[str]
    rounds: Count | None
    generate_overrides: list[str]
    curate_overrides: list[str]
    model: ModelConfig
    data: DataConfig
    loss: Loss
    optimizer: Optimizer
    scheduler: SchedulerConfig
    trainer: TrainerConfig
    callbacks: Callbacks
    logger: LoggerConfig
    eval: EvalConfig
    verifier: Verifier
    engine: Engine

    def metric_names(self) -> list[str]:
        """The metrics that the run logs."""
        logging = {name for name, settings in self.callbacks.items() if settings is not None}
        if self.data.num_development == 0:
            logging.discard("accuracy")
        return known_metrics(
            self.loss.target,
            has_validation=self.data.num_validation > 0,
            has_divergence=self.loss.kl_weight > 0,
            callbacks=[name for name in CALLBACK_METRICS if name in logging],
        )

    def _callback(self, name: str, key: str) -> Any:
        """A setting of a callback; None where either is not there."""
        return getattr(self.callbacks.get(name), key, None)

    @model_validator(mode="after")
    def _check_data(self) -> Self:
        if self.rounds is None and isinstance(self.data.source, ReasoningGymSourceConfig):
            raise UserError(
                "data=reasoning_gym: holds problems and no traces; make some with generate eval=fresh, and train on"
                " them with data=jsonl data.path=FOLDER (docs/generate.md)"
            )
        return self

    @model_validator(mode="after")
    def _check_rounds(self) -> Self:
        if self.rounds is None and (self.generate_overrides or self.curate_overrides):
            raise UserError("generate_overrides, curate_overrides: are of rounds; add +experiment=rounds")
        if self.rounds and (self.baseline or (self.init_from is None and self.model.path is None)):
            raise UserError(f"rounds={self.rounds}: begin with a trained model: set init_from, and no baseline")
        return self

    @model_validator(mode="after")
    def _check_suite(self) -> Self:
        _refuse_conditions(self.eval, "train")
        if self.eval.benchmark in ("suite", "lm_eval"):
            raise UserError(
                f"eval={self.eval.name}: training is evaluated on one benchmark; choose one, and run the suite on the"
                f" checkpoint: python -m redi_lab evaluate checkpoint=FOLDER eval={self.eval.name}"
            )
        return self

    @model_validator(mode="after")
    def _check_model(self) -> Self:
        if self.model.path is not None and self.name.startswith("demo"):
            raise UserError(
                f"model.path={self.model.path}: name={self.name} has the settings of a small student made from scratch"
                f" (optimizer.lr={self.optimizer.lr:g}); for a pretrained model add +experiment=own_model, or"
                " +experiment=own_model_sft for SFT alone; with settings and init_from that suit it, add name=NAME"
            )
        return self

    @model_validator(mode="after")
    def _check_adapters(self) -> Self:
        lora = self.model.lora
        if lora is None:
            return self
        if self.init_from is None and self.model.path is None:
            raise UserError(
                "model/lora: init_from=null and model.path=null start from random weights, which adapters leave as they"
                " are; train them all with model/lora=none (for an earlier stage, init_overrides=['model/lora=none'])"
            )
        place = f"model.lora.quantization={lora.quantization}"
        if lora.quantization and self.trainer.strategy not in ("auto", "ddp"):
            raise UserError(f"{place}: trainer.strategy={self.trainer.strategy} cannot shard 4-bit weights; choose ddp")
        if lora.quantization and self.trainer.accelerator == "mps":
            raise UserError(
                f"{place}: trainer.accelerator=mps has no 4-bit kernels; choose gpu, cpu or model/lora=default"
            )
        return self

    @model_validator(mode="after")
    def _check_reference(self) -> Self:
        if isinstance(self.loss, ReferenceConfig):
            key, reference = "reference", self.loss.reference
        elif self.loss.kl_weight > 0:
            key, reference = "kl_weight", "init"
        else:
            return self
        if reference == "init" and self.init_from is None and self.model.path is None:
            shown = reference if key == "reference" else f"{self.loss.kl_weight:g}"
            raise UserError(
                f"loss.{key}={shown}: the reference must be trained, but init_from=null and model.path=null start from"
                " random weights; set init_from to an experiment or a folder"
            )
        if reference != "init" and not (Path(reference) / "config.json").is_file():
            raise UserError(
                f"loss.reference={reference}: no Hugging Face folder there (config.json); choose init (the policy"
                " before training) or FOLDER"
            )
        return self

    @model_validator(mode="after")
    def _check_reward(self) -> Self:
        """What asks a policy, or watches one, would measure something else."""
        if not isinstance(self.loss, RewardConfig):
            return self
        wrong = [f"callbacks.{name}=null" for name in CALLBACK_METRICS if self.callbacks.get(name) is not None]
        wrong += ["eval=none"] if self.eval.benchmark is not None else []
        wrong += ["rounds=null"] if self.rounds is not None else []
        if wrong:
            raise UserError(
                f"loss=token_reward: trains no policy; add {' '.join(wrong)} (+experiment=token_reward does)"
            )
        return self

    @model_validator(mode="after")
    def _check_callbacks(self) -> Self:
        interval = self._callback("accuracy", "every_n_steps")
        if interval is not None and self.data.num_development == 0:
            raise UserError(
                f"callbacks.accuracy.every_n_steps={interval}: there are no problems to measure accuracy on;"
                " set data.num_development"
            )
        factor = self._callback("collapse", "alpha_factor")
        if factor not in (None, 1) and not hasattr(self.loss, "alpha"):
            raise UserError(f"callbacks.collapse.alpha_factor={factor}: this objective has no alpha; leave it at 1")
        return self

    @model_validator(mode="after")
    def _check_monitor(self) -> Self:
        monitor = self._callback("checkpoints", "monitor")
        if monitor is None:
            return self
        # Gradients are those of the weights before the step, which no folder holds.
        names = [name for name in self.metric_names() if name not in GRADIENT_METRICS]
        place = f"callbacks.checkpoints.monitor={monitor}"
        if monitor not in names:
            hint = "" if self.data.num_validation else " (val/ metrics need data.num_validation above 0)"
            raise UserError(f"{place}: no such metric{hint}; choose {listed(names, monitor)}")
        observer = next((callback for callback, logged in CALLBACK_METRICS.items() if monitor in logged), None)
        if observer is None:
            return self
        interval = self._callback(observer, "every_n_steps")
        if interval is None or self._callback("checkpoints", "every_n_steps") != interval:
            raise UserError(
                f"{place}: the best folder must hold the weights that were measured; give"
                f" callbacks.checkpoints.every_n_steps and callbacks.{observer}.every_n_steps the same number"
            )
        return self


class _SamplingVerb(_Verb):
    """What samples a checkpoint."""

    checkpoint: Text
    data: DataConfig
    eval: EvalConfig
    verifier: Verifier
    engine: Engine
    launcher: LauncherConfig

    @model_validator(mode="after")
    def _check_launcher(self) -> Self:
        if self.launcher.address is not None and not isinstance(self.engine, VLLMEngineConfig):
            raise UserError(
                "launcher=ray: this engine generates in one process; add engine=vllm engine.data_parallel_size=REPLICAS"
            )
        return self


class EvaluateVerb(_SamplingVerb):
    """`evaluate`."""

    baseline: bool
    sequential: SequentialConfig
    logger: LoggerConfig

    @model_validator(mode="after")
    def _check_question(self) -> Self:
        if self.baseline or self.sequential.is_asked:
            _refuse_conditions(self.eval, f"{'baseline=true' if self.baseline else 'sequential'}")
        if self.baseline and self.sequential.is_asked:
            raise UserError(
                "baseline=true: cannot be combined with sequential; ask sequential.better_than=FOLDER of the base model"
            )
        if self.sequential.is_asked and self.eval.benchmark in ("suite", "lm_eval"):
            raise UserError(
                f"sequential: asks about one benchmark, and eval={self.eval.name} is several; choose a single one"
            )
        return self


class GenerateVerb(_SamplingVerb):
    """`generate`."""

    stop: StopConfig

    @model_validator(mode="after")
    def _check_problems(self) -> Self:
        _refuse_conditions(self.eval, "generate")
        if self.eval.benchmark in (None, "suite", "lm_eval"):
            raise UserError(
                f"eval={self.eval.name or 'none'}: traces are generated of one list of problems; choose eval=fresh,"
                " eval=jsonl eval.path=FILE, or a single benchmark"
            )
        return self


class _CuratedData(DataConfig):
    batch_size: Any = None
    """Not read; some data groups leave it to the experiment."""


class CurateVerb(_Verb):
    """`curate`."""

    data: _CuratedData
    curation: CurationConfig
    verifier: Verifier
    launcher: LauncherConfig

    @model_validator(mode="after")
    def _check_curation(self) -> Self:
        limits = [key for key in ("prompt", "completion", "sequence") if getattr(self.data, f"max_{key}_tokens")]
        if limits and self.curation.tokenizer is None:
            raise UserError(
                f"data.max_{limits[0]}_tokens counts tokens of the student: give its tokenizer with"
                " curation.tokenizer=FOLDER_OR_HUB_ID"
            )
        if self.curation.grader != "never" and getattr(self.data.source, "format", None) == "pairs":
            raise UserError(f"curation.grader={self.curation.grader}: ready pairs carry no answers to grade against")
        if self.curation.grader != "never" and self.curation.require_answer and self.verifier.target in WITHOUT_ANSWERS:
            raise UserError(
                "curation.require_answer=true: this verifier takes texts without a final answer, such as proofs, which"
                " would all be unknown; add curation.require_answer=false"
            )
        if self.launcher.address is not None and self.curation.num_workers == 0:
            raise UserError("curation.num_workers=0: launcher=ray needs workers; give their number")
        return self


class StepsVerb(_SamplingVerb):
    """`curate steps`."""

    data: _CuratedData
    steps: StepsConfig

    @model_validator(mode="after")
    def _check_rollouts(self) -> Self:
        most, number = self.steps.max_rollouts, self.eval.num_samples
        if most is not None and (self.steps.search == "all" or most < number):
            raise UserError(f"steps.max_rollouts={most}: must be at least {number}, with steps.search=binary")
        if self.eval.benchmark is not None:
            raise UserError(f"eval={self.eval.name or self.eval.benchmark}: problems are those of the traces")
        return self


class OmegaVerb(_Verb):
    """`curate omega`."""

    checkpoint: Text
    data: _CuratedData
    omega: OmegaConfig


class SweepVerb(_Verb):
    """`sweep`, without the overrides of its runs."""

    sweep: SweepConfig
    logger: LoggerConfig
    launcher: LauncherConfig

    @model_validator(mode="after")
    def _check_launcher(self) -> Self:
        if self.launcher.address is not None and self.sweep.storage.startswith("sqlite"):
            raise UserError(
                f"sweep.storage={self.sweep.storage}: sqlite is for one machine, and launcher=ray reaches others; give"
                " journal:////FILE on a file system that all share, or postgresql://HOST/DB"
            )
        return self


VERBS: dict[str, type[Settings]] = {
    "train": TrainVerb,
    "evaluate": EvaluateVerb,
    "generate": GenerateVerb,
    "curate": CurateVerb,
    "steps": StepsVerb,
    "omega": OmegaVerb,
    "sweep": SweepVerb,
}
