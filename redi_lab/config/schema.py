"""The schema of what our own code reads from a configuration: one dataclass a group, one line of meaning a field.

`redi_lab.config.compose` holds a composed configuration against it.
"""

from __future__ import annotations

from collections.abc import Collection
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
    """packed_sdpa or padded."""
    gradient_checkpointing: Any = "none"
    """full, selective or none: what is computed again in the backward pass rather than kept."""
    compile: bool = False
    """Fuse the elementwise work of norms and MLPs with torch.compile."""
    head_chunk_tokens: int | None = None
    """Most tokens whose logits exist at a time; null: what suits the device."""
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
    num_development: int = 0
    """Problems for accuracy during training."""
    development_path: str | None = None
    """JSONL file of {problem, answer} whose first ones they are."""
    max_prompt_tokens: int | None = None
    """Longer prompts are dropped and counted."""
    max_completion_tokens: int | None = None
    """Longer completions are dropped and counted."""
    max_sequence_tokens: int | None = None
    """Longer sequences are dropped and counted."""
    max_new_tokens: int = 96
    """Room for an answer at evaluation."""


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
    head_gradient: str = "accumulate"
    """accumulate (one pass over the vocabulary) or recompute (two, and less memory for long pairs)."""


@dataclass
class SimPOConfig(LossConfig):
    """Eq. 3."""

    beta: float = 2.0
    """Scale of the rewards, above 0."""
    gamma: float = 1.0
    """Margin, at least 0."""
    head_gradient: str = "accumulate"
    """As for DPO."""


LOSSES: dict[str, type[LossConfig]] = {
    "redi_lab.modules.sft.SFTModule": LossConfig,
    "redi_lab.modules.redi.REDIModule": REDIConfig,
    "redi_lab.modules.unpaired_redi.UnpairedREDIModule": REDIConfig,
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
    """Where answers stand, and limits of the grading workers."""

    num_workers: int = 2
    """Processes."""
    timeout_seconds: float = 10.0
    """Per answer."""
    memory_mb: int = 1024
    """Per process, beyond its libraries."""
    answers: str = "boxed"
    """boxed, marker or last_number: where completions state their answer."""


@dataclass
class EvalGraderConfig(GraderConfig):
    """Limits of the grading workers, and what counts as an answer."""

    require_closed_thought: bool = False
    """Take the answer after </think>; a completion without it is wrong."""


@dataclass
class BenchmarkConfig:
    """Where problems and their answers come from."""

    benchmark: str | None = None
    """heldout, arithmetic, jsonl, hub, suite, or null for no evaluation."""
    name: str | None = None
    """In metrics and reports; null: of the file."""
    path: str | None = None
    """JSONL or JSON file, or (benchmark=hub) a hub id or the URL of a JSON file."""
    config: str | None = None
    """Configuration of a hub id."""
    split: str = "test"
    """Of a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id."""
    problem_key: str = "problem"
    """Column of the problem's text."""
    answer_key: str = "answer"
    """Column of the answer, or of a list of accepted answers."""


@dataclass
class EvalConfig(BenchmarkConfig):
    """Benchmark, or a suite of them, and protocol."""

    members: dict[str, Any] = field(default_factory=dict)
    """Benchmarks of a suite, by name."""
    limit: int | None = None
    """Only the first n problems of a benchmark."""
    prompt_template: str | None = None
    """Text of the user turn; null: as in training."""
    prompt_file: str | None = None
    """Text file that takes the place of prompt_template."""
    thinking_prefix: str | None = None
    """Opens the assistant turn; null: as in training."""
    temperature: float = 0.6
    """0 is greedy."""
    top_p: float = 0.95
    """In (0, 1]."""
    num_samples: int = 4
    """Completions of each problem."""
    max_new_tokens: int | None = None
    """Longest completion; null: as in training."""
    fit_context: bool = False
    """Lower max_new_tokens to what the model's context leaves beside the longest prompt."""
    chunk_completions: int = 4096
    """Generated between two saves."""
    seed: int = 0
    """Of the sampling."""
    grader: EvalGraderConfig = field(default_factory=EvalGraderConfig)
    """Limits of the grading workers, and what counts as an answer."""


@dataclass
class SequentialConfig:
    """When `evaluate` may stop before it has drawn `eval.num_samples` of each problem."""

    width: float | None = None
    """When the score is known to ± this; null: not asked."""
    better_than: str | None = None
    """When it is clear whether the checkpoint beats this Hugging Face folder; null: not asked."""
    delta: float = 0.0
    """How much better, in pass@1."""
    confidence: float = 0.95
    """That the interval holds the truth at all looks."""


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
    negatives: str = "paired"
    """paired, or all wrong generations, also of problems without a right one."""
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
class SweepConfig:
    """An Optuna study: which training runs are tried, how they are chosen, ended, kept and confirmed."""

    overrides: list[str] = field(default_factory=list)
    """Of the training run that all trials share."""
    space: dict[str, Any] | None = None
    """Override path to a list of choices or a range."""
    num_trials: int | None = 20
    """Budget; null with sampler=grid, which tries every point."""
    seeds: list[int] = field(default_factory=lambda: [42])
    """A trial's value is the mean over them."""
    metric: str = "val/pass_at_1"
    """What is optimised, measured during training."""
    mode: str = "max"
    """max or min."""
    sampler: str = "tpe"
    """tpe, grid, random or gp."""
    pruner: str = "collapse"
    """none, collapse, median or hyperband; the last two also stop collapsed trials."""
    storage: str = ""
    """sqlite:////FILE, journal:////FILE, postgresql://… or mysql+pymysql://…."""
    num_workers: int = 1
    """Processes of this command; the same command started again, here or elsewhere, adds as many."""
    lease_seconds: float = 60.0
    """Without a sign of life for so long a worker counts as dead."""
    max_retries: int = 3
    """How often the trial of a dead worker is tried again."""
    confirm_seeds: list[int] = field(default_factory=list)
    """Fresh ones, on which the winner is compared with the run that has none of the space's values."""


@dataclass
class LoggerConfig:
    """Where runs are tracked."""

    tracking_uri: str | None = None
    """MLflow store; null keeps local records alone."""
    experiment_name: str = "redi_lab"
    """MLflow experiment."""
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
_STEP_MEASURES = ("grad_norm", "update_norm", "lr", "tokens_per_second", "padding_share", "row_fill")
_REJECTED_METRICS = ("logps/rejected", "mean_logps/rejected")
_REWARD_METRICS = tuple(f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies"))
CALLBACK_METRICS = {
    "accuracy": tuple(
        f"val/{name}"
        for name in ("pass_at_1", "pass_at_1_ci_low", "pass_at_1_ci_high", "truncation_rate", "mean_tokens")
    ),
    "probes": (
        *(f"probe/{name}" for name in ("chosen_mean_logps", "rejected_mean_logps", "min_token_logp")),
        *(f"probe/{name}" for name in ("median_min_token_logp", "entropy", "eos_probability", "fallen_share")),
        "probe/displacement",
    ),
    "gradient_conflict": ("train/grad_norm_chosen", "train/grad_norm_rejected", "train/grad_cosine"),
    "collapse": ("collapse/state", "collapse/statistic"),
}
"""What callbacks log besides, by their name in the callbacks group."""
_NEED_REJECTED = ("probe/rejected_mean_logps", "probe/displacement", *CALLBACK_METRICS["gradient_conflict"])


def known_metrics(
    loss: str, *, has_validation: bool, log_entropy: bool = False, callbacks: Collection[str] = ()
) -> list[str]:
    """Names of the metrics that a training run logs.

    Args:
        loss: `_target_` of the loss group.
        has_validation: whether problems are kept for validation.
        log_entropy: whether train/entropy is asked for.
        callbacks: those of `CALLBACK_METRICS` that are on.
    """
    shared: tuple[str, ...] = _STEP_METRICS
    if not loss.endswith("SFTModule"):
        shared += _REJECTED_METRICS if loss.endswith("UnpairedREDIModule") else (*_REJECTED_METRICS, *_REWARD_METRICS)
    names = [f"train/{name}" for name in shared] + [f"val/{name}" for name in shared if has_validation]
    extra = [*_STEP_MEASURES, "entropy"] if log_entropy else list(_STEP_MEASURES)
    observed = [name for callback in callbacks for name in CALLBACK_METRICS[callback]]
    if loss.endswith("SFTModule"):
        observed = [name for name in observed if name not in _NEED_REJECTED]
    return sorted(names + [f"train/{name}" for name in extra] + observed)
