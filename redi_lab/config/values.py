"""What a single value of a configuration may be, in one table: ranges and choices. Nothing here imports torch."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from redi_lab.errors import UserError

_Rule = tuple[tuple[str, ...], Callable[[Any], bool], str]  # keys, whether a value is allowed, and what is, in words


def check_values(config: DictConfig) -> None:
    """Hold the values that are there and not null against the table.

    Args:
        config: resolved.

    Raises:
        UserError: one is not allowed; the message names the key, the value and what is allowed.
    """
    for keys, is_allowed, allowed in _RULES:
        for key in keys:
            value = OmegaConf.select(config, key)
            if value is not None and not is_allowed(value):
                raise UserError(f"{key}={value}: must be {allowed}")


def is_whole(low: int) -> Callable[[Any], bool]:
    """A test for whole numbers from `low`; true and false, which Python counts among them, are none."""
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value >= low


def is_count(text: str) -> bool:
    """Whether a word of the command line is a whole number that `int` reads and a machine can count to."""
    return bool(re.fullmatch("[0-9]{1,9}", text))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_share(value: Any) -> bool:
    """A share of the batches (float), or their number (int), as Lightning has it."""
    return is_whole(0)(value) or (isinstance(value, float) and 0 <= value <= 1)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_beta(value: Any) -> bool:
    return _is_number(value) and bool(0 <= value < 1)


def _one_of(*choices: str | None) -> tuple[Callable[[Any], bool], str]:
    return lambda value: value in choices, "one of " + ", ".join("null" if c is None else c for c in choices)


_RULES: tuple[_Rule, ...] = (
    (
        ("callbacks.accuracy.every_n_steps", "callbacks.accuracy.max_batch_tokens", "callbacks.accuracy.max_new_tokens",
         "callbacks.accuracy.num_samples",
         "callbacks.checkpoints.every_n_steps", "callbacks.collapse.confirmations",
         "callbacks.collapse.snapshot_every_n_steps", "callbacks.collapse.window_steps",
         "callbacks.gradient_conflict.every_n_steps", "callbacks.numerics.max_skips",
         "callbacks.probes.every_n_steps", "callbacks.probes.num_examples", "callbacks.probes.num_tokens",
         "callbacks.state.every_n_steps", "callbacks.state.keep_last", "curation.grading.num_workers",
         "curation.ngram", "curation.pairs_per_problem", "data.batch_size", "data.max_completion_tokens",
         "data.max_new_tokens", "data.max_prompt_tokens", "data.max_sequence_tokens", "data.micro_batch_tokens",
         "data.source.num_problems", "engine.data_parallel_size", "engine.max_batch_tokens",
         "engine.tensor_parallel_size", "eval.chunk_completions", "eval.grader.num_workers", "eval.limit",
         "eval.max_new_tokens", "eval.num_samples", "model.config.hidden_size", "model.config.intermediate_size",
         "model.config.max_position_embeddings", "model.config.num_attention_heads", "model.config.num_hidden_layers",
         "model.config.num_key_value_heads", "model.head_chunk_tokens", "sweep.num_trials", "sweep.num_workers",
         "trainer.check_val_every_n_epoch", "trainer.log_every_n_steps"),
        is_whole(1),
        "a whole number of at least 1",
    ),
    (
        ("callbacks.collapse.max_rollbacks", "curation.num_workers", "data.num_development", "data.num_validation",
         "data.source.num_heldout", "eval.seed", "sweep.max_retries", "trainer.min_epochs",
         "trainer.min_steps"),
        is_whole(0),
        "a whole number of at least 0",
    ),
    (
        ("callbacks.collapse.chosen_nats", "callbacks.collapse.deviations", "callbacks.collapse.token_nats",
         "callbacks.state.every_minutes", "curation.grading.timeout_seconds", "eval.grader.timeout_seconds",
         "logger.flush_seconds", "loss.beta", "optimizer.lr", "optimizer.max_grad_norm", "sweep.lease_seconds"),
        lambda value: _is_number(value) and 0 < value < math.inf,
        "a number above 0",
    ),
    (("eval.num_samples", "callbacks.accuracy.num_samples"), lambda n: n <= 100_000, "at most 100,000 (16 are usual)"),
    (("data.source.num_problems",), lambda n: n <= 10_000_000, "at most 10,000,000"),
    (("sweep.num_trials",), lambda n: n <= 100_000, "at most 100,000"),
    (
        ("eval.grader.num_workers", "curation.grading.num_workers", "curation.num_workers",
         "sweep.num_workers"),
        lambda n: n <= 1024,
        "at most 1,024 processes, and for most machines as many as it has cores",
    ),
    (
        ("loss.gamma", "eval.temperature", "callbacks.accuracy.temperature", "optimizer.weight_decay"),
        lambda value: _is_number(value) and 0 <= value < math.inf,
        "a number of at least 0",
    ),
    (("callbacks.numerics.action",), *_one_of("stop", "skip")),
    (("callbacks.numerics.explosion",), lambda value: _is_number(value) and value > 1, "a number above 1"),
    (("callbacks.collapse.action",), *_one_of("warn", "stop", "prune", "rollback")),
    (("resume",), lambda value: value in ("auto", "never"), "auto, never or RUN_DIR (and then without Hydra's flags)"),
    (("loss.alpha", "scheduler.warmup_ratio"), lambda value: _is_number(value) and 0 <= value <= 1, "in [0, 1]"),
    (("optimizer.eps",), lambda value: _is_number(value) and 0 < value < 1, "a number above 0 and below 1"),
    (("logger.experiment_name",), lambda value: bool(value.strip()), "a name"),
    (("model.vocab_size",), lambda value: value >= 257, "at least 257: a token for every byte, and the end of text"),
    (("eval.grader.memory_mb", "curation.grading.memory_mb"), lambda value: value >= 512, "at least 512"),
    (
        ("engine.device",),
        lambda value: bool(re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", str(value))),
        "auto, cpu, mps, cuda or cuda:N",
    ),
    (
        ("eval.top_p", "curation.near_threshold", "callbacks.collapse.drifting_share", "callbacks.collapse.lr_factor",
         "callbacks.collapse.alpha_factor"),
        lambda value: _is_number(value) and 0 < value <= 1,
        "in (0, 1]",
    ),
    (
        ("data.prompt_template", "eval.prompt_template"),
        lambda value: "{problem}" in str(value),
        "a text with {problem} in it",
    ),
    (
        ("trainer.limit_train_batches", "trainer.limit_val_batches"),
        _is_share,
        "a share from 0.0 to 1.0 or a number of batches",
    ),
    (
        ("trainer.val_check_interval",),
        lambda value: _is_share(value) and value > 0,
        "a share of an epoch in (0.0, 1.0] or a number of steps",
    ),
    (("trainer.accelerator",), *_one_of("auto", "cpu", "gpu", "cuda", "mps")),
    (("trainer.deterministic",), lambda value: value in (True, False, "warn"), "true, false or warn"),
    (("baseline",), _is_flag, "true or false"),
    (("trainer.benchmark", "trainer.detect_anomaly", "trainer.enable_model_summary"), _is_flag, "true or false"),
    (("optimizer.fused",), _is_flag, "true, false or null"),
    (("trainer.profiler",), *_one_of("simple", "advanced", "pytorch")),
    (
        ("trainer.max_time",),
        lambda value: bool(re.fullmatch(r"\d+:\d\d:\d\d:\d\d", str(value))),
        "a time DD:HH:MM:SS in quotes",
    ),
    (
        ("optimizer.betas",),
        lambda value: isinstance(value, ListConfig) and len(value) == 2 and all(map(_is_beta, value)),
        "two numbers in [0, 1), such as [0.9,0.999]",
    ),
    (("trainer.devices",), lambda value: value in (1, "1"), "1: training on several devices is not wired up yet"),
    (("trainer.precision",), *_one_of("32-true", "bf16-mixed", "auto")),  # others scale or round away steps of 1e-6
    (("loss.head_gradient",), *_one_of("accumulate", "recompute")),
    (("model.dtype",), *_one_of("float32", "bfloat16", "float16")),
    (("model.attention",), *_one_of("packed_sdpa", "padded")),
    (
        ("model.gradient_checkpointing",),
        lambda value: value in (True, False, "full", "selective", "none"),
        "full, selective or none",
    ),
    (("data.student_tokenizer",), *_one_of("arithmetic", "bpe")),
    (("eval.benchmark",), *_one_of(None, "heldout", "arithmetic", "jsonl", "hub", "suite")),
    (("engine.dtype",), *_one_of("auto", "float32", "bfloat16")),
    (
        ("scheduler.name",),
        *_one_of("linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"),
    ),
    (("callbacks.checkpoints.mode", "sweep.mode"), *_one_of("min", "max")),
    (("sweep.sampler",), *_one_of("tpe", "grid", "random", "gp")),
    (("sweep.pruner",), *_one_of("none", "collapse", "median", "hyperband")),
    (("sequential.width",), lambda value: _is_number(value) and 0 < value <= 0.5, "above 0 and at most 0.5"),
    (("sequential.confidence",), lambda value: _is_number(value) and 0 < value < 1, "above 0 and below 1"),
    (("sequential.delta",), lambda value: _is_number(value) and -1 < value < 1, "above -1 and below 1"),
    (("curation.unknown",), *_one_of("unused", "negative")),
    (("eval.grader.answers", "curation.grading.answers"), *_one_of("boxed", "marker", "last_number")),
    (("curation.grader",), *_one_of("never", "missing", "always")),
    (("curation.demonstrations",), *_one_of("first", "all")),
    (("curation.negatives",), *_one_of("paired", "all")),
    (("curation.pair_order",), *_one_of("first", "random", "length_matched", "nearest", "longest_prefix")),
    (("curation.problem_duplicates", "curation.generation_duplicates"), *_one_of("keep", "exact", "near")),
)  # fmt: skip
