"""What a configuration may say, checked before anything heavy is imported.

`load_config` composes with Hydra, `check` holds the result against the schema below. Both raise `UserError` with one
line that names the key, the value and what is allowed. Nothing here imports torch, so a mistake is told within a second
or two.
"""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from redi_lab.errors import UserError

_PACKAGED = Path(__file__).parent / "conf"
CONFIG_DIR = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[1] / "conf"
"""The configuration tree: inside an installed package, else at the top of the repository."""

OmegaConf.register_new_resolver("cwd", os.getcwd, replace=True)


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


_GROUPS: dict[str, type[Any]] = {
    "model": ModelConfig,
    "data": DataConfig,
    "scheduler": SchedulerConfig,
    "eval": EvalConfig,
    "logger": LoggerConfig,
    "paths": PathsConfig,
    "debug": DebugConfig,
}
_PASSED_ON = ("optimizer", "trainer", "callbacks", "engine")  # arguments of other libraries' or our classes
_TOP = {"train": ("name", "seed", "init_from", "init_overrides", "loss"), "evaluate": ("name", "seed", "checkpoint")}

TRAINER_ARGUMENTS = frozenset(
    "accelerator strategy devices num_nodes precision fast_dev_run max_epochs min_epochs max_steps min_steps max_time"
    " limit_train_batches limit_val_batches overfit_batches val_check_interval check_val_every_n_epoch"
    " num_sanity_val_steps log_every_n_steps benchmark deterministic profiler detect_anomaly sync_batchnorm"
    " enable_model_summary plugins".split()
)
"""Arguments of `pytorch_lightning.Trainer` that `trainer` may hold (the lab sets the others itself)."""

_STEP_METRICS = ("loss", "logps/chosen", "mean_logps/chosen")
_PAIR_METRICS = ("logps/rejected", "mean_logps/rejected") + tuple(
    f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies")
)


def known_metrics(loss: str, *, has_validation: bool, log_entropy: bool = False) -> list[str]:
    """Names of the metrics that a training run logs.

    Args:
        loss: `_target_` of the loss group.
        has_validation: whether problems are kept for validation.
        log_entropy: whether train/entropy is asked for.
    """
    shared = _STEP_METRICS if loss.endswith("SFTModule") else _STEP_METRICS + _PAIR_METRICS
    names = [f"train/{name}" for name in shared] + [f"val/{name}" for name in shared if has_validation]
    extra = ["grad_norm", "update_norm", "lr", "tokens_per_second"] + (["entropy"] if log_entropy else [])
    return sorted(names + [f"train/{name}" for name in extra])


def load_config(
    name: str, overrides: Sequence[str], *, config_dir: Path = CONFIG_DIR, check_paths: bool = True
) -> DictConfig:
    """Compose, resolve and check a configuration.

    Args:
        name: "train" or "evaluate".
        overrides: Hydra overrides, as on the command line.
        config_dir: the configuration tree.
        check_paths: whether what is to be read must exist.

    Raises:
        UserError: one line that names the key, the value and what is allowed.
    """
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
        try:
            config = compose(name, list(overrides))
        except (HydraException, OmegaConfBaseException, ValueError) as error:
            raise UserError(_explain_composition(error, name, overrides, config_dir)) from error
    check(config, name, check_paths=check_paths)
    return config


def check(config: DictConfig, name: str, *, check_paths: bool = True) -> None:
    """Resolve `config` in place and hold it against the schema.

    Raises:
        UserError: one line that names the key, the value and what is allowed.
    """
    missing = _missing(OmegaConf.to_container(config))
    if missing:
        raise UserError(f"{missing[0]} is required and has no default: add {missing[0]}=VALUE")
    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        raise UserError(f"{error.full_key}: {_first_line(error)}") from error
    _check_top(config, name)
    if not isinstance(config.seed, int) or not 0 <= config.seed < 2**32:
        raise UserError(f"seed={config.seed}: must be a whole number from 0 to 4294967295")
    for group, schema in _GROUPS.items():
        if group in config:
            config[group] = _conform(group, config[group], schema)
    if name == "train":
        config.loss = _conform("loss", config.loss, LOSSES.get(str(config.loss.get("_target_")), LossConfig))
        _check_training(config)
    _check_ranges(config)
    if check_paths:
        _check_paths(config)


def experiment_names(config_dir: Path = CONFIG_DIR) -> list[str]:
    """The experiments that `+experiment=` and `init_from=` can name."""
    return sorted(path.stem for path in (config_dir / "experiment").glob("*.yaml"))


def is_hub_id(path: str) -> bool:
    """Whether `path` looks like OWNER/NAME on the hub rather than a path on disk."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+", path)) and not path.startswith((".", "/", "~"))


def _missing(node: Any, prefix: str = "") -> list[str]:
    """Keys whose value is still ???; unlike OmegaConf.missing_keys it does not trip over interpolations to them."""
    if node == "???":
        return [prefix]
    items = node.items() if isinstance(node, dict) else ()
    return [key for name, value in items for key in _missing(value, f"{prefix}.{name}" if prefix else str(name))]


def _check_top(config: DictConfig, name: str) -> None:
    allowed = [*_TOP[name], *_GROUPS, *_PASSED_ON]
    for key in config:
        if key not in allowed:
            raise UserError(_unknown(str(key), "", allowed))


def _conform(group: str, value: Any, schema: type[Any]) -> DictConfig:
    """`value` with the schema's types and defaults."""
    if not isinstance(value, DictConfig):
        options = sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
        raise UserError(f"{group}={value!r} is not a group of settings; choose one of {', '.join(options)}")
    names = [f.name for f in fields(schema)]
    for key in value:
        if key not in names:
            raise UserError(_unknown(str(key), group, [n for n in names if not n.startswith("_")]))
    try:
        plain = OmegaConf.to_container(value)
        structured = OmegaConf.merge(OmegaConf.structured(schema), plain)
    except OmegaConfBaseException as error:
        raise UserError(f"{group}.{error.full_key or error.key}: {_first_line(error)}") from error
    loose = OmegaConf.create(OmegaConf.to_container(structured))  # a plain tree: experiments may add to `source`
    assert isinstance(loose, DictConfig)
    return loose


def _check_training(config: DictConfig) -> None:
    for key in config.trainer:
        if key not in TRAINER_ARGUMENTS:
            raise UserError(_unknown(str(key), "trainer", sorted(TRAINER_ARGUMENTS)))
    if config.model.path is None and not (config.model.config or {}).get("model_type"):
        raise UserError("model.path=null needs model.config.model_type and sizes; or give model.path=FOLDER")
    if "reference" in config.loss:
        _check_reference(config)
    monitor = (config.callbacks.get("checkpoints") or {}).get("monitor")
    names = known_metrics(
        config.loss._target_, has_validation=config.data.num_validation > 0, log_entropy=config.loss.log_entropy
    )
    if monitor is not None and monitor not in names:
        hint = "" if config.data.num_validation else " (val/ metrics need data.num_validation above 0)"
        raise UserError(f"callbacks.checkpoints.monitor={monitor}: no such metric{hint}; choose {_list(names, monitor)}")


def _check_reference(config: DictConfig) -> None:
    reference = config.loss.reference
    if reference is None:
        raise UserError("loss.reference=null: DPO needs a reference; choose init (the policy before training) or FOLDER")
    if reference == "init" and config.init_from is None and config.model.path is None:
        raise UserError(
            "loss.reference=init: DPO needs a trained reference, but init_from=null and model.path=null start from"
            " random weights; set init_from to an experiment or a folder"
        )
    if reference != "init" and not (Path(reference) / "config.json").is_file():
        raise UserError(f"loss.reference={reference}: no Hugging Face folder there (config.json); choose init or FOLDER")


_POSITIVE_INTEGERS = ("data.batch_size", "data.micro_batch_tokens", "data.max_new_tokens", "eval.num_samples",
                      "eval.max_new_tokens", "eval.grader.num_workers", "eval.limit", "data.max_prompt_tokens",
                      "data.max_completion_tokens", "data.max_sequence_tokens")  # fmt: skip
_INTERVALS = {
    "loss.alpha": (0.0, 1.0, "a number in [0, 1]"),
    "loss.gamma": (0.0, math.inf, "a number of at least 0"),
    "scheduler.warmup_ratio": (0.0, 1.0, "a number in [0, 1]"),
    "eval.temperature": (0.0, math.inf, "a number of at least 0"),
    "data.num_validation": (0, math.inf, "a whole number of at least 0"),
    "data.num_workers": (0, math.inf, "a whole number of at least 0"),
}
_POSITIVE = {"loss.beta", "optimizer.lr", "optimizer.max_grad_norm", "eval.top_p", "logger.flush_seconds"}
_CHOICES = {
    "model.dtype": ("float32", "bfloat16", "float16"),
    "model.attention": ("packed_sdpa", "flash_attention_2"),
    "data.student_tokenizer": ("arithmetic", "bpe"),
    "eval.benchmark": (None, "heldout", "jsonl", "hub"),
    "scheduler.name": ("linear", "cosine", "constant_with_warmup", "constant", "polynomial", "inverse_sqrt"),
    "callbacks.checkpoints.mode": ("min", "max"),
}


def _check_ranges(config: DictConfig) -> None:
    def complain(key: str, value: Any, allowed: str) -> None:
        raise UserError(f"{key}={value}: must be {allowed}")

    for key in _POSITIVE_INTEGERS:
        value = OmegaConf.select(config, key)
        if value is not None and value < 1:
            complain(key, value, "a whole number of at least 1")
    for key, (low, high, allowed) in _INTERVALS.items():
        value = OmegaConf.select(config, key)
        if value is not None and not (_is_number(value) and low <= value <= high):
            complain(key, value, allowed)
    for key in _POSITIVE:
        value = OmegaConf.select(config, key)
        if value is not None and not (_is_number(value) and 0 < value < math.inf):
            complain(key, value, "a number above 0")
    for key, choices in _CHOICES.items():
        value = OmegaConf.select(config, key, default=MISSING)
        if value is not MISSING and value not in choices:
            complain(key, value, f"one of {', '.join('null' if c is None else str(c) for c in choices)}")
    if (OmegaConf.select(config, "eval.top_p") or 0) > 1:
        complain("eval.top_p", config.eval.top_p, "a number in (0, 1]")
    for key in ("data.prompt_template", "eval.prompt_template"):
        if "{problem}" not in str(OmegaConf.select(config, key, default="{problem}")):
            complain(key, repr(OmegaConf.select(config, key)), "a text with {problem} in it")


def _check_paths(config: DictConfig) -> None:
    """What is to be read must be there: a folder, a file, an experiment, or something that the hub might know."""
    init = config.get("init_from")
    if init is not None and init not in experiment_names() and not (Path(init) / "config.json").is_file():
        raise UserError(
            f"init_from={init}: neither a Hugging Face folder (config.json) nor an experiment; experiments:"
            f" {_list(experiment_names(), init)}"
        )
    checkpoint = config.get("checkpoint")
    if checkpoint is not None and not (Path(checkpoint) / "config.json").is_file():
        raise UserError(f"checkpoint={checkpoint}: no Hugging Face folder there (config.json is missing)")
    for key, what in (("model.path", "Hugging Face folder"), ("data.path", "file or folder")):
        path = OmegaConf.select(config, key)
        if path is not None and not Path(path).exists() and not is_hub_id(path):
            raise UserError(f"{key}={path}: no such {what}, and not a hub id (OWNER/NAME)")
    if config.eval.benchmark == "jsonl" and not Path(config.eval.path or "").is_file():
        raise UserError(f"eval.path={config.eval.path}: no such file; give a JSONL file of {{problem, answer}}")


def _explain_composition(error: Exception, name: str, overrides: Sequence[str], config_dir: Path) -> str:
    """Hydra's complaint as one line with the allowed values."""
    text = str(error)
    option = re.search(r"Could not find '([\w/]+)/([^/']+)'", text)
    if option:
        group, wrong = option.groups()
        found = sorted(path.stem for path in (config_dir / group).glob("*.yaml"))
        return f"{group}={wrong}: no such option; choose {_list(found, wrong)}"
    unknown = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text)
    if unknown:
        key = unknown.group(1)
        good = [o for o in overrides if not o.lstrip("+~").startswith(f"{key}=")]
        prefix, _, last = key.rpartition(".")
        if key.split(".")[0] == "experiment":
            return f"{key}: experiments are appended, write +experiment=NAME with one of {', '.join(experiment_names())}"
        try:
            node = compose(name, good)
            siblings = OmegaConf.select(node, prefix) if prefix else node
            return _unknown(last, prefix, [str(k) for k in siblings if not str(k).startswith("_")])
        except (HydraException, OmegaConfBaseException, TypeError):
            return f"unknown key {key}"
    return _first_line(error)


def _unknown(key: str, group: str, allowed: Sequence[str]) -> str:
    place = f"{group}.{key}" if group else key
    return f"unknown key {place}: {group or 'the configuration'} has {_list(allowed, key)}"


def _list(names: Sequence[str], wrong: str) -> str:
    close = difflib.get_close_matches(wrong, names, n=1)
    return ", ".join(names) + (f" (did you mean {close[0]}?)" if close else "")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
