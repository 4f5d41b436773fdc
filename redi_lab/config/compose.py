"""What a configuration may say, checked before anything heavy is imported.

`load_config` composes with Hydra, `check` holds the result against `redi_lab.config.schema`. Both raise `UserError`
with one line that names the key, the value and what is allowed. Nothing here imports torch: mistakes end at once.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException
from omegaconf.resolvers import oc
from yaml import MarkedYAMLError, YAMLError

from redi_lab.config.checks import (
    check_callbacks,
    check_choices,
    check_names,
    check_optimizer,
    check_secrets,
    check_store,
    check_trainer,
    in_words,
    read_prompt,
    resolve,
)
from redi_lab.config.overrides import quote_paths
from redi_lab.config.schema import (
    CALLBACK_METRICS,
    LOSSES,
    TRAINER_ARGUMENTS,
    BenchmarkConfig,
    CurationConfig,
    DataConfig,
    DebugConfig,
    EvalConfig,
    LoggerConfig,
    ModelConfig,
    PathsConfig,
    SchedulerConfig,
    SequentialConfig,
    SweepConfig,
    known_metrics,
)
from redi_lab.config.values import check_values
from redi_lab.errors import UserError, in_short
from redi_lab.redaction import remember_variable

_PACKAGED = Path(__file__).parents[1] / "conf"
CONFIG_DIR = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "conf"
"""The configuration tree: inside an installed package, else at the top of the repository."""


def _read_variable(name: str, *default: str | None) -> str | None:
    remember_variable(name)
    value: str | None = oc.env(name, *default)
    return value


OmegaConf.register_new_resolver("oc.env", _read_variable, replace=True)
OmegaConf.register_new_resolver("cwd", os.getcwd, replace=True)
OmegaConf.register_new_resolver("abspath", os.path.abspath, replace=True)
# Hydra's own `now` is the same for all jobs of a multirun, which would then share one results folder.
OmegaConf.register_new_resolver("timestamp", lambda: datetime.now().strftime("%Y-%m-%d_%H-%M-%S"), replace=True)
# A learning rate that depends on whether adapters are trained: ${by_lora:${model.lora},IF_SO,IF_NOT}
OmegaConf.register_new_resolver("by_lora", lambda lora, yes, no: no if lora is None else yes, replace=True)


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
PROTOCOL_FROM_TRAINING = ("prompt_template", "thinking_prefix", "max_new_tokens")
"""Keys of the groups data and eval: where eval leaves them null, an evaluation asks as training did."""
_OPEN = ("model.config_overrides", "model.lora", "engine.options")  # empty groups, which grow key by key
_TOP = {
    "train": ("name", "seed", "resume", "baseline", "init_from", "init_overrides", "loss", *_GROUPS, *_PASSED_ON),
    "evaluate": (
        "name",
        "seed",
        "checkpoint",
        "baseline",
        "sequential",
        "data",
        "eval",
        "logger",
        "paths",
        "debug",
        "engine",
    ),
    "curate": ("name", "seed", "curation", "data", "paths", "debug"),
    "sweep": ("name", "seed", "sweep", "logger", "paths", "debug"),
}
_NOT_READ = {"curate": ("data.batch_size",)}  # keys that a verb can do without, although their group requires them


def load_config(
    name: str, overrides: Sequence[str], *, config_dir: Path = CONFIG_DIR, check_paths: bool = True
) -> DictConfig:
    """Compose, resolve and check a configuration.

    Args:
        name: "train", "evaluate", "curate" or "sweep".
        overrides: Hydra overrides, as on the command line.
        config_dir: the configuration tree.
        check_paths: whether what is to be read must exist.

    Raises:
        UserError: one line that names the key, the value and what is allowed.
    """
    overrides = quote_paths(overrides)
    check_choices(overrides, config_dir)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
        try:
            config = compose(name, overrides)
        except (HydraException, OmegaConfBaseException, YAMLError, ValueError) as error:
            raise UserError(explain_composition(error, name, overrides, config_dir)) from error
    check(config, name, check_paths=check_paths)
    return config


def check(config: DictConfig, name: str, *, check_paths: bool = True) -> None:
    """Resolve `config` in place and hold it against the schema.

    Raises:
        UserError: one line that names the key, the value and what is allowed.
    """
    missing = [key for key in _missing(OmegaConf.to_container(config)) if key not in _NOT_READ.get(name, ())]
    if missing:
        raise UserError(f"{missing[0]} is required and has no default: add {missing[0]}=VALUE")
    resolve(config)
    _check_top(config, name)
    if isinstance(config.get("eval"), DictConfig):
        read_prompt(config.eval)
    check_secrets(config)
    if not isinstance(config.seed, int) or isinstance(config.seed, bool) or not 0 <= config.seed < 2**32:
        raise UserError(f"seed={config.seed}: must be a whole number from 0 to 4294967295")
    for group, schema in _GROUPS.items():
        if group in config:
            config[group] = _conform(group, config[group], schema)
    check_names(config)
    if "logger" in config:
        check_store(config.logger.tracking_uri)
    if config.get("eval") is not None:
        _check_benchmarks(config, name)
    _check_verb(config, name)
    check_values(config)
    if check_paths:
        _check_paths(config)


def _check_verb(config: DictConfig, name: str) -> None:
    if name == "train":
        target, is_partial = config.loss.get("_target_"), config.loss.get("_partial_")
        if target not in LOSSES or is_partial is not True:
            raise UserError(
                f"loss._target_={target} with _partial_={is_partial}: choose an objective with loss=NAME, one of"
                f" {', '.join(sorted(path.stem for path in (CONFIG_DIR / 'loss').glob('*.yaml')))}"
            )
        config.loss = _conform("loss", config.loss, LOSSES[target])
        _check_training(config)
        for key in PROTOCOL_FROM_TRAINING:
            config.eval[key] = config.data[key] if config.eval[key] is None else config.eval[key]
    if name == "curate":
        config.curation = _conform("curation", config.curation, CurationConfig)
        _check_curation(config)
    if name == "sweep":
        config.sweep = _conform("sweep", config.sweep, SweepConfig)
    if name == "evaluate":
        config.sequential = _conform("sequential", config.sequential, SequentialConfig)
        _check_sequential(config)


def experiment_names(config_dir: Path = CONFIG_DIR) -> list[str]:
    """The experiments that `+experiment=` and `init_from=` can name."""
    return sorted(path.stem for path in (config_dir / "experiment").glob("*.yaml"))


def benchmarks(config: DictConfig) -> dict[str, DictConfig]:
    """Settings of the benchmark, or of each member of a suite, by their place in the configuration."""
    if "eval" not in config:
        return {}
    if config.eval.benchmark != "suite":
        return {"eval": config.eval}
    return {f"eval.members.{name}": member for name, member in config.eval.members.items()}


def metric_names(config: DictConfig) -> list[str]:
    """The metrics that a training run logs."""
    return known_metrics(
        config.loss._target_,
        has_validation=config.data.num_validation > 0,
        log_entropy=config.loss.log_entropy,
        callbacks=[name for name in CALLBACK_METRICS if _is_observed(config, name)],
    )


def is_url(path: str) -> bool:
    """Whether `path` is an address on the web."""
    return path.startswith(("https://", "http://"))


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
    for key in config:
        if key == "experiment":
            raise UserError("experiment: its YAML file must begin with # @package _global_ and hold KEY: VALUE lines")
        if key not in _TOP[name]:
            raise UserError(_unknown(str(key), "", _TOP[name]))
    for key in _TOP[name]:
        if key not in config:
            raise UserError(f"{key} is missing, and {name} reads it: drop ~{key}")
        if key in _PASSED_ON and not isinstance(config[key], DictConfig):
            raise UserError(f"{key}={config[key]}: must be a group of settings {{KEY: VALUE}}")
    init, changes = config.get("init_from"), config.get("init_overrides", ())
    if not isinstance(init, str | None):
        raise UserError(f"init_from={init}: must be an experiment, a Hugging Face folder, or null")
    if not isinstance(changes, list | tuple | ListConfig) or not all(isinstance(change, str) for change in changes):
        raise UserError(f"init_overrides={changes}: must be a list of texts: \"init_overrides=['optimizer.lr=1e-3']\"")


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
    except ConfigKeyError as error:  # of a dataclass in a dataclass
        raise UserError(f"unknown key {group}.{error.full_key}: {in_short(error)}") from error
    except OmegaConfBaseException as error:
        key = error.full_key or _first_misfit(schema, plain)
        given = OmegaConf.select(value, key)
        raise UserError(f"{group}.{key}={'null' if given is None else given}: must be {_kind(schema, key)}") from error
    _check_flags(group, plain, structured)
    loose = OmegaConf.create(OmegaConf.to_container(structured))  # a plain tree: experiments may add to `source`
    assert isinstance(loose, DictConfig)
    return loose


def _check_flags(group: str, plain: Any, structured: Any) -> None:
    """OmegaConf takes any number for true or false."""
    for key, value in structured.items():
        given = plain.get(key, value)
        if isinstance(value, DictConfig) and isinstance(given, dict):
            _check_flags(f"{group}.{key!s}", given, value)
        elif isinstance(value, bool) and not isinstance(given, bool):
            raise UserError(f"{group}.{key!s}={given}: must be true or false")


def _first_misfit(schema: type[Any], plain: Any) -> str:
    """The key of a nested dataclass that is given something else; OmegaConf does not name it."""
    nested = (name for name, kind in get_type_hints(schema).items() if is_dataclass(kind))
    return next(name for name in nested if name in plain and not isinstance(plain[name], dict))


def _kind(schema: Any, key: str) -> str:
    """What a field takes, in words."""
    for part in key.partition("[")[0].split("."):
        schema = get_type_hints(schema)[part]
    return in_words(schema)


def _check_training(config: DictConfig) -> None:
    for key in config.trainer:
        if key not in TRAINER_ARGUMENTS:
            raise UserError(_unknown(str(key), "trainer", sorted(TRAINER_ARGUMENTS)))
    check_trainer(config.trainer)
    check_optimizer(config.optimizer)
    check_callbacks(config.callbacks)
    _check_model(config)
    if "reference" in config.loss:
        _check_reference(config)
    interval = (config.callbacks.get("accuracy") or {}).get("every_n_steps")
    if interval is not None and config.data.num_development == 0:
        raise UserError(
            f"callbacks.accuracy.every_n_steps={interval}: there are no problems to measure accuracy on;"
            " set data.num_development"
        )
    collapse = config.callbacks.get("collapse") or {}
    alpha_factor = collapse.get("alpha_factor", 1)
    if alpha_factor != 1 and "alpha" not in config.loss:
        raise UserError(f"callbacks.collapse.alpha_factor={alpha_factor}: this objective has no alpha; leave it at 1")
    _check_monitor(config)


def _check_model(config: DictConfig) -> None:
    if config.model.path is not None and str(config.name).startswith("demo"):
        raise UserError(
            f"model.path={config.model.path}: name={config.name} has the settings of a small student made from scratch"
            f" (optimizer.lr={config.optimizer.lr:g}); for a pretrained model add +experiment=own_model, or"
            " +experiment=own_model_sft for SFT alone; with settings and init_from that suit it, add name=NAME"
        )
    if config.model.path is None and not (config.model.config or {}).get("model_type"):
        raise UserError("model.path=null needs model.config.model_type and sizes; or give model.path=FOLDER")
    if config.model.path is None and config.model.tokenizer is None:
        raise UserError("model.tokenizer=null: a new model needs one; choose arithmetic, bpe, or FOLDER_OR_HUB_ID")
    if config.model.dtype in ("bfloat16", "float16") and config.model.lora is None:
        raise UserError(
            f"model.dtype={config.model.dtype}: small steps would be rounded away; keep float32 weights and compute in"
            " bfloat16 with trainer.precision=bf16-mixed (model.lora allows it, adapters stay in float32)"
        )


def _check_monitor(config: DictConfig) -> None:
    checkpoints = config.callbacks.get("checkpoints") or {}
    monitor = checkpoints.get("monitor")
    # Gradients are those of the weights before the step, which no folder holds.
    names = [name for name in metric_names(config) if name not in CALLBACK_METRICS["gradient_conflict"]]
    if monitor is None:
        return
    if monitor not in names:
        hint = "" if config.data.num_validation else " (val/ metrics need data.num_validation above 0)"
        raise UserError(
            f"callbacks.checkpoints.monitor={monitor}: no such metric{hint}; choose {_list(names, monitor)}"
        )
    observer = next((callback for callback, logged in CALLBACK_METRICS.items() if monitor in logged), None)
    if observer is None:
        return
    interval = config.callbacks[observer].get("every_n_steps")
    if interval is None or checkpoints.get("every_n_steps") != interval:
        raise UserError(
            f"callbacks.checkpoints.monitor={monitor}: the best folder must hold the weights that were measured; give"
            f" callbacks.checkpoints.every_n_steps and callbacks.{observer}.every_n_steps the same number"
        )


def _check_benchmarks(config: DictConfig, verb: str) -> None:
    members = config.eval.members
    if config.eval.benchmark != "suite":
        if members:
            raise UserError(f"eval.members: {config.eval.name or config.eval.benchmark} is no suite and has no members")
        return
    if verb != "evaluate":
        raise UserError(
            f"eval={config.eval.name}: training is judged on one benchmark; choose one, and run the suite on the"
            f" checkpoint: python -m redi_lab evaluate checkpoint=FOLDER eval={config.eval.name}"
        )
    if not members:
        raise UserError(f"eval.members: the suite {config.eval.name} has no benchmark left")
    for name, settings in members.items():
        members[name] = _conform(f"eval.members.{name}", settings, BenchmarkConfig)
        allowed = ("heldout", "arithmetic", "jsonl", "hub")
        if members[name].benchmark not in allowed:
            raise UserError(
                f"eval.members.{name}.benchmark={members[name].benchmark}: must be one of {', '.join(allowed)}"
            )


def _check_sequential(config: DictConfig) -> None:
    settings = config.sequential
    if config.baseline and (settings.width or settings.better_than):
        raise UserError("baseline=true: not beside sequential; ask sequential.better_than=FOLDER of the base model")
    if settings.width is not None and settings.better_than is not None:
        raise UserError(f"sequential.width={settings.width}: ask one question, width or better_than")
    if settings.delta and settings.better_than is None:
        raise UserError(f"sequential.delta={settings.delta}: better than what? add sequential.better_than=FOLDER")
    is_asked = settings.width is not None or settings.better_than is not None
    if is_asked and config.eval.benchmark == "suite":
        raise UserError(f"sequential: asks of one benchmark, and eval={config.eval.name} is a suite; choose one of it")


def _is_observed(config: DictConfig, callback: str) -> bool:
    return bool(config.callbacks.get(callback)) and (callback != "accuracy" or config.data.num_development > 0)


def _check_curation(config: DictConfig) -> None:
    limits = [key for key in ("prompt", "completion", "sequence") if config.data[f"max_{key}_tokens"] is not None]
    if limits and config.curation.tokenizer is None:
        raise UserError(
            f"data.max_{limits[0]}_tokens counts tokens of the student: give its tokenizer with"
            " curation.tokenizer=FOLDER_OR_HUB_ID"
        )
    if config.curation.grader != "never" and config.data.source.get("format") == "pairs":
        raise UserError(f"curation.grader={config.curation.grader}: ready pairs carry no answers to grade against")
    for file in config.curation.benchmarks:
        if not Path(file).is_file():
            raise UserError(f"curation.benchmarks: {file}: no such file; give JSONL files of {{problem}}")


def _check_reference(config: DictConfig) -> None:
    reference = config.loss.reference
    if reference is None:
        raise UserError(
            "loss.reference=null: DPO needs a reference; choose init (the policy before training) or FOLDER"
        )
    if reference == "init" and config.init_from is None and config.model.path is None:
        raise UserError(
            "loss.reference=init: DPO needs a trained reference, but init_from=null and model.path=null start from"
            " random weights; set init_from to an experiment or a folder"
        )
    if reference != "init" and not (Path(reference) / "config.json").is_file():
        raise UserError(
            f"loss.reference={reference}: no Hugging Face folder there (config.json); choose init or FOLDER"
        )


def _check_paths(config: DictConfig) -> None:
    """What is to be read must be there: a folder, a file, an experiment, or something that the hub might know."""
    init = config.get("init_from")
    if init is not None and init not in experiment_names() and not (Path(init) / "config.json").is_file():
        raise UserError(
            f"init_from={init}: neither a Hugging Face folder (config.json) nor an experiment; experiments:"
            f" {_list(experiment_names(), init)}"
        )
    checkpoint = config.get("checkpoint")
    if checkpoint is not None:
        _check_folder("checkpoint", checkpoint)
    development = OmegaConf.select(config, "data.development_path")
    if development is not None and not Path(development).is_file():
        raise UserError(f"data.development_path={development}: no such file; give a JSONL file of {{problem, answer}}")
    rival = OmegaConf.select(config, "sequential.better_than")
    if rival is not None:
        _check_folder("sequential.better_than", rival)
    _check_sources(config)


def _check_folder(key: str, path: str) -> None:
    if (Path(path) / "config.json").is_file():
        return
    remedy = "give one with config.json and *.safetensors"
    if (Path(path) / "adapter_config.json").is_file():
        remedy = "merge the adapter that is there into its base model (peft's merge_and_unload) and save both"
    raise UserError(f"{key}={path}: no Hugging Face folder there (config.json is missing); {remedy}")


def _check_sources(config: DictConfig) -> None:
    """Model, data and benchmarks, each a path or something that the hub might know."""
    for key, what in (("model.path", "Hugging Face folder"), ("data.path", "file or folder")):
        path = OmegaConf.select(config, key)
        if path is not None and (not path or not Path(path).exists()) and not is_hub_id(path):
            raise UserError(f"{key}={path}: no such {what}, and not a hub id (OWNER/NAME)")
    model = OmegaConf.select(config, "model.path")
    if model is not None and Path(model).exists():
        _check_folder("model.path", model)
    for key, benchmark in benchmarks(config).items():
        if benchmark.benchmark == "jsonl" and not Path(benchmark.path or "").is_file():
            raise UserError(f"{key}.path={benchmark.path}: no such file; give a JSONL file of {{problem, answer}}")
        if benchmark.benchmark == "hub" and not _is_source(benchmark.path):
            raise UserError(
                f"{key}.path={benchmark.path}: no such file, and neither a hub id (OWNER/NAME) nor a URL (https://...)"
            )


def explain_composition(error: Exception, name: str, overrides: Sequence[str], config_dir: Path) -> str:
    """Hydra's complaint as one line with the allowed values."""
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}; correct the YAML there"
    if isinstance(error, UserError):
        return str(error)
    text = str(error)
    if ambiguous := re.search(r"Ambiguous value for argument '(.+)'", text):
        return f"{ambiguous[1]}: several values need -m, a run of each; one list stands in brackets: KEY=[A,B]"
    if there := re.search(r"Could not append to config. An item is already at '(.+)'", text):
        return f"+{there[1]}: is there already; drop the +"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as KEY=VALUE ({in_short(error)}); quote what holds = , [ or {{"
    if isinstance(error, ConfigCompositionException) and (needed := re.match(r"You must specify '(\w+)'", text)):
        found = sorted(path.stem for path in (config_dir / needed[1]).glob("*.yaml"))
        return f"{needed[1]} is required and has no default: add {needed[1]}=NAME, one of {', '.join(found)}"
    option = re.search(r"Could not find '([\w/]+)/([^/']+)'", text)
    if option:
        group, wrong = option.groups()
        found = sorted(path.stem for path in (config_dir / group).glob("*.yaml"))
        return f"{group}={wrong}: no such option; choose {_list(found, wrong)}"
    unknown = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text)
    return _explain_key(unknown.group(1), name, overrides, config_dir) if unknown else in_short(error)


def _explain_key(key: str, name: str, overrides: Sequence[str], config_dir: Path) -> str:
    good = [o for o in overrides if not o.lstrip("+~").startswith(f"{key}=")]
    prefix, _, last = key.rpartition(".")
    if prefix in _OPEN or key in _OPEN:
        return f"{key}: what is not there yet is added one by one: +{key}{'.KEY' if key in _OPEN else ''}=VALUE"
    if key.split(".")[0] == "experiment":
        return f"{key}: experiments are appended, write +experiment=NAME with one of {', '.join(experiment_names())}"
    try:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
            node = compose(name, good)
        siblings = OmegaConf.select(node, prefix) if prefix else node
        return _unknown(last, prefix, [str(k) for k in siblings if not str(k).startswith("_")])
    except (HydraException, OmegaConfBaseException, TypeError):
        return f"unknown key {key}: see the keys that there are with --cfg job"


def _unknown(key: str, group: str, allowed: Sequence[str]) -> str:
    place = f"{group}.{key}" if group else key
    return f"unknown key {place}: {group or 'the configuration'} has {_list(allowed, key)}"


def _is_source(path: str | None) -> bool:
    return path is not None and (Path(path).is_file() or is_hub_id(path) or is_url(path))


def _list(names: Sequence[str], wrong: object) -> str:
    close = difflib.get_close_matches(str(wrong), names, n=1)
    return ", ".join(names) + (f" (did you mean {close[0]}?)" if close else "")
