"""The schema of what our own code reads from a configuration: one dataclass a group, one line of meaning a field.

`redi_lab.config` holds a composed configuration against it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class ModelConfig:
    """The policy before its first stage."""

    path: str | None = None
    """Hub id or local Hugging Face folder; null makes a new model from `config`."""
    tokenizer: str | None = None
    """arithmetic, bpe (trained on the corpus), or a path; null: the one at `path`."""
    vocab_size: int | None = None
    """Most tokens of a tokenizer trained on the corpus."""
    chat_template: str | None = None
    """A Jinja file or template; null: the tokenizer's own."""
    config: dict[str, Any] | None = None
    """model_type and sizes of a new model."""
    config_overrides: dict[str, Any] = field(default_factory=dict)
    """Fields of the model's configuration to change."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    dtype: str = "float32"
    """Of the parameters."""
    attention: str = "packed_sdpa"
    """packed_sdpa or flash_attention_2."""
    gradient_checkpointing: bool = False
    """Trade compute for memory."""
    lora: dict[str, Any] | None = None
    """Arguments of peft.LoraConfig."""


@dataclass
class DataConfig:
    """Traces, and how they become batches."""

    source: dict[str, Any] = field(default_factory=dict)
    """A `TraceSource` to instantiate."""
    path: str | None = None
    """Of the source, where it reads files or the hub."""
    student_tokenizer: str = "bpe"
    """Which tokenizer a student made from scratch gets."""
    prompt_template: str = "{problem}"
    """Text of the user turn."""
    thinking_prefix: str = ""
    """Opens the assistant turn."""
    batch_size: int = 16
    """Examples of one optimizer step, over all devices."""
    micro_batch_tokens: int = 8192
    """Most tokens of one forward pass."""
    num_validation: int = 0
    """Problems kept out of training for val/ metrics."""
    max_prompt_tokens: int | None = None
    """Longer prompts are dropped and counted."""
    max_completion_tokens: int | None = None
    """Longer completions are dropped and counted."""
    max_sequence_tokens: int | None = None
    """Longer sequences are dropped and counted."""
    max_new_tokens: int = 96
    """Room for an answer at evaluation."""
    num_workers: int = 0
    """Processes that pack batches."""


@dataclass
class LossConfig:
    """Common to all objectives."""

    _target_: str = ""
    _partial_: bool = True
    log_entropy: bool = False
    """Also log train/entropy."""


@dataclass
class REDIConfig(LossConfig):
    """Eq. 5."""

    alpha: float = 0.8
    """Weight of the negative term, in [0, 1]."""


@dataclass
class DPOConfig(LossConfig):
    """Eq. 2."""

    beta: float = 0.1
    """Scale of the log-prob ratios, above 0."""
    reference: str | None = "init"
    """init (the policy before training) or a Hugging Face folder."""


@dataclass
class SimPOConfig(LossConfig):
    """Eq. 3."""

    beta: float = 2.0
    """Scale of the rewards, above 0."""
    gamma: float = 1.0
    """Margin, at least 0."""


LOSSES: dict[str, type[LossConfig]] = {
    "redi_lab.modules.sft.SFTModule": LossConfig,
    "redi_lab.modules.redi.REDIModule": REDIConfig,
    "redi_lab.modules.dpo.DPOModule": DPOConfig,
    "redi_lab.modules.simpo.SimPOModule": SimPOConfig,
}


@dataclass
class SchedulerConfig:
    """Learning-rate schedule."""

    name: str = "linear"
    """One of transformers' schedules."""
    warmup_ratio: float = 0.1
    """Share of the steps, in [0, 1]."""


@dataclass
class GraderConfig:
    """Limits of the grading workers."""

    num_workers: int = 2
    """Processes."""
    timeout_seconds: float = 10.0
    """Per answer."""
    memory_mb: int = 1024
    """Per process."""


@dataclass
class EvalConfig:
    """Benchmark and protocol."""

    benchmark: str | None = None
    """heldout, jsonl, hub, or null for no evaluation."""
    path: str | None = None
    """JSONL file, or hub id (benchmark=hub; a local file there is read as JSONL)."""
    split: str = "test"
    """Of a hub benchmark."""
    problem_key: str = "problem"
    """Column of a hub benchmark."""
    answer_key: str = "answer"
    """Column of a hub benchmark."""
    limit: int | None = None
    """Only the first n problems."""
    prompt_template: str = "{problem}"
    """Text of the user turn."""
    thinking_prefix: str = ""
    """Opens the assistant turn."""
    temperature: float = 0.6
    """0 is greedy."""
    top_p: float = 0.95
    """In (0, 1]."""
    num_samples: int = 4
    """Completions of each problem."""
    max_new_tokens: int = 1024
    """Longest completion."""
    seed: int = 0
    """Of the sampling."""
    grader: GraderConfig = field(default_factory=GraderConfig)
    """Limits of the grading workers."""


@dataclass
class CurationConfig:
    """How `curate` judges, filters and pairs generations."""

    unknown: str = "unused"
    """unused, or negative: what becomes of generations that nobody knows to be right or wrong."""
    grader: str = "never"
    """never, missing (where the corpus has no verdict), or always (one more verifier)."""
    require_complete: bool = False
    """Drop generations that were cut off."""
    require_answer: bool = False
    """A rejected generation without a final answer is unknown."""
    demonstrations: str = "first"
    """first, or all right generations of a problem."""
    pair_order: str = "first"
    """first, random, length_matched, nearest or longest_prefix."""
    pairs_per_problem: int | None = 1
    """Most pairs of a problem; null for all."""
    problem_duplicates: str = "keep"
    """keep, exact or near."""
    generation_duplicates: str = "keep"
    """keep, exact or near; among the generations of one problem."""
    near_threshold: float = 0.8
    """Similarity from which two texts are near duplicates."""
    benchmarks: list[str] = field(default_factory=list)
    """JSONL files of evaluation problems that must not be trained on."""
    ngram: int = 13
    """Words that a problem shares with a benchmark when it is dropped."""
    tokenizer: str | None = None
    """The student's: counts tokens and applies the token limits of the data group."""
    num_workers: int = 2
    """Processes; 0 for none."""
    grading: GraderConfig = field(default_factory=GraderConfig)
    """Limits of the grader's own workers."""


@dataclass
class LoggerConfig:
    """Where runs are tracked."""

    tracking_uri: str | None = None
    """MLflow store; null keeps local records alone."""
    experiment_name: str = "redi_lab"
    """MLflow experiment."""
    artifact_location: str | None = None
    """Of a new MLflow experiment."""
    flush_seconds: float = 5.0
    """Between uploads."""


@dataclass
class PathsConfig:
    """Where things are written."""

    outputs_dir: str = ""
    """Root of all output."""
    output_dir: str = ""
    """Results of this command."""
    cache_dir: str = ""
    """Finished stages and evaluations."""


@dataclass
class DebugConfig:
    """How mistakes are shown."""

    traceback: bool = False
    """Show tracebacks of mistakes in configuration or data."""


TRAINER_ARGUMENTS = frozenset(
    [
        "accelerator",
        "devices",
        "precision",
        "max_epochs",
        "min_epochs",
        "max_steps",
        "min_steps",
        "max_time",
        "limit_train_batches",
        "limit_val_batches",
        "val_check_interval",
        "check_val_every_n_epoch",
        "log_every_n_steps",
        "benchmark",
        "deterministic",
        "profiler",
        "detect_anomaly",
        "enable_model_summary",
    ]
)
"""Arguments of `pytorch_lightning.Trainer` that `trainer` may hold (the lab sets the others itself)."""

_STEP_METRICS = ("loss", "logps/chosen", "mean_logps/chosen")
_PAIR_METRICS = (
    "logps/rejected",
    "mean_logps/rejected",
    *(f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")),
)


def known_metrics(loss: str, *, has_validation: bool, log_entropy: bool = False) -> list[str]:
    """Names of the metrics that a training run logs.

    Args:
        loss: `_target_` of the loss group.
        has_validation: whether problems are kept for validation.
        log_entropy: whether train/entropy is asked for.
    """
    shared = _STEP_METRICS if loss.endswith("SFTModule") else (*_STEP_METRICS, *_PAIR_METRICS)
    names = [f"train/{name}" for name in shared] + [f"val/{name}" for name in shared if has_validation]
    extra = ["grad_norm", "update_norm", "lr", "tokens_per_second"] + (["entropy"] if log_entropy else [])
    return sorted(names + [f"train/{name}" for name in extra])
