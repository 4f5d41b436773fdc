"""Composes a configuration and checks it before anything heavy is imported.

`load_config` composes with Hydra, `check` holds the result against the models in `redi_lab.config.schema`. Both raise
`UserError` with one line that names the key, the value and what is allowed. Nothing here imports torch: mistakes end at
once.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError, YAMLError

from redi_lab.config.checks import check_choices, check_secrets, options
from redi_lab.config.interpolation import register_resolvers, resolve
from redi_lab.config.overrides import quote_paths
from redi_lab.config.schema.base import listed, unknown_key, validated
from redi_lab.config.schema.verbs import VERBS, TrainVerb
from redi_lab.errors import UserError, in_short
from redi_lab.hub import is_hub_id

_PACKAGED = Path(__file__).parents[1] / "conf"
CONFIG_DIR = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "conf"
"""The configuration tree: inside an installed package, else at the top of the repository."""
PROTOCOL_FROM_TRAINING = ("prompt_template", "thinking_prefix", "max_new_tokens")
"""Keys of the groups data and eval: where eval leaves them null, an evaluation asks as training did."""
_OF_COMPOSING = (HydraException, OmegaConfBaseException, YAMLError, ValueError)
_NOT_READ = {"curate": ("data.batch_size",), "steps": ("data.batch_size",), "omega": ("data.batch_size",)}
"""Keys that a verb can do without, although their group requires them."""
# What an earlier stage takes over from the command line.
_INHERITED = ("model", "data", "paths", "logger", "seed", "debug")
_DEVICES = ("trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.fsdp_offload")
_OF_ONE_STAGE = ("data.batch_size", "data.micro_batch_tokens", "data.negatives")

register_resolvers()


def load_config(
    name: str, overrides: Sequence[str], *, config_dir: Path = CONFIG_DIR, check_paths: bool = True
) -> DictConfig:
    """Compose, resolve and check a configuration.

    Args:
        name: "train", "evaluate", "generate", "curate", "steps", "omega" or "sweep".
        overrides: Hydra overrides, as on the command line.
        config_dir: the configuration tree.
        check_paths: whether what is to be read must exist.

    Raises:
        UserError: one line that names the key, the value and what is allowed.
    """
    overrides = quote_paths(overrides)
    check_choices(overrides, config_dir)
    try:
        config = _composed(name, overrides, config_dir.resolve())
    except _OF_COMPOSING as error:
        raise UserError(explain_composition(error, name, overrides, config_dir)) from error
    check(config, name, check_paths=check_paths)
    return config


def _composed(name: str, overrides: Sequence[str], config_dir: Path) -> DictConfig:
    """What Hydra composes, but equal choices of options once: a sweep composes dozens of times with other values.

    Where that fails, Hydra composes all and says what is wrong.
    """
    choices = tuple(override for override in overrides if (config_dir / override.lstrip("+").split("=")[0]).is_dir())
    values = [override for override in overrides if override not in choices]
    if not any(override.startswith(("~", "hydra.")) or "@" in override for override in overrides):
        files = tuple((file, file.stat().st_mtime_ns) for file in config_dir.rglob("*.yaml"))
        try:
            config = copy.deepcopy(_compose_choices(name, choices, config_dir, files))
            ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(values), config)
            return config
        except _OF_COMPOSING as error:
            if "Could not override" in str(error):  # as Hydra would say
                raise
    return _compose(name, overrides, config_dir)


@lru_cache(maxsize=64)
def _compose_choices(name: str, choices: tuple[str, ...], config_dir: Path, files: tuple[object, ...]) -> DictConfig:
    return _compose(name, choices, config_dir)


def _compose(name: str, overrides: Sequence[str], config_dir: Path) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(config_dir), version_base="1.3"):
        return compose(name, list(overrides))


def explain_composition(error: Exception, name: str, overrides: Sequence[str], config_dir: Path) -> str:
    """What went wrong, in one line.

    Args:
        error: raised by Hydra, OmegaConf or PyYAML.
        name: of the top-level YAML file.
        overrides: of the command line.
        config_dir: the configuration tree.
    """
    if isinstance(error, MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}; correct the YAML there"
    if isinstance(error, UserError):
        return str(error)
    text = str(error)
    if ambiguous := re.search(r"Ambiguous value for argument '(.+)'", text):
        return f"{ambiguous[1]}: to run several values, use -m; a list is written in brackets: KEY=[A,B]"
    if there := re.search(r"Could not append to config. An item is already at '(.+)'", text):
        return f"+{there[1]}: exists already; drop the +"
    if isinstance(error, OverrideParseException):
        return f"{error.override}: cannot be read as KEY=VALUE ({in_short(error)}); quote what holds = , [ or {{"
    if isinstance(error, ConfigCompositionException) and (needed := re.match(r"You must specify '(\w+)'", text)):
        found = options(config_dir, needed[1])
        return f"{needed[1]} is required and has no default: add {needed[1]}=NAME, one of {', '.join(found)}"
    if option := re.search(r"Could not find '([\w/]+)/([^/']+)'", text):
        group, wrong = option.groups()
        return f"{group}={wrong}: no such option; choose {listed(options(config_dir, group), wrong)}"
    unknown = re.search(r"Could not override '([^']+)'", text) or re.search(r"Key '([^']+)' is not in struct", text)
    return _explain_key(unknown[1], name, overrides, config_dir) if unknown else in_short(error)


def _explain_key(key: str, name: str, overrides: Sequence[str], config_dir: Path) -> str:
    good = [o for o in overrides if not o.lstrip("+~").startswith(f"{key}=")]
    prefix, _, last = key.rpartition(".")
    if key.split(".")[0] == "experiment":
        names = options(config_dir, "experiment")
        return f"{key}: experiments are appended, write +experiment=NAME with one of {', '.join(names)}"
    try:
        node = _composed(name, good, config_dir.resolve())
        siblings = [str(name) for name in (OmegaConf.select(node, prefix) if prefix else node) or ()]
    except (*_OF_COMPOSING, TypeError):
        return f"unknown key {key}: --cfg job shows the keys that there are"
    group = prefix.replace(".", "/")
    if not siblings and (config_dir / group).is_dir():  # an option that stands for none
        return f"{key}: {prefix} has no settings; choose one of {group}={', '.join(options(config_dir, group))}"
    if last in siblings or not siblings:  # of a group that takes any keys, such as model.config_overrides
        return f"{key}: new keys are added one by one: +{key}{'.KEY' if siblings else ''}=VALUE"
    return unknown_key(last, prefix, siblings)


def check(config: DictConfig, name: str, *, check_paths: bool = True) -> None:
    """Resolve `config` in place, hold it against the models of its verb, and give values the types of their fields.

    Raises:
        UserError: one line that names the key, the value and what is allowed.
    """
    missing = [key for key in _missing(OmegaConf.to_container(config)) if key not in _NOT_READ.get(name, ())]
    if missing:
        raise UserError(f"{missing[0]} is required and has no default: add {missing[0]}=VALUE")
    resolve(config)
    if "experiment" in config:
        raise UserError("experiment: its YAML file must begin with # @package _global_ and hold KEY: VALUE lines")
    content: Any = OmegaConf.to_container(config)
    check_secrets(content)
    checked = validated(VERBS[name], content)
    for key, value in checked.model_dump(by_alias=True, exclude_unset=True).items():
        if repr(value) != repr(content[key]):  # most are as they were, and to make a group's nodes anew takes long
            config[key] = value
    if name == "train":
        for key in PROTOCOL_FROM_TRAINING:
            config.eval[key] = config.data[key] if config.eval[key] is None else config.eval[key]
    if check_paths:
        _check_paths(config)


def earlier_overrides(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """The overrides that compose the experiment which `config.init_from` names."""
    return [f"+experiment={config.init_from}", *inherited(overrides), *config.init_overrides]


def load_earlier(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of the experiment that `config.init_from` names.

    Raises:
        UserError: it is not allowed; the message names the stage, for init_overrides may be to blame.
    """
    try:
        return load_config("train", earlier_overrides(config, overrides))
    except UserError as error:
        raise UserError(f"in the stage init_from={config.init_from}: {error}") from error


def inherited(overrides: Sequence[str]) -> list[str]:
    """The overrides that an earlier stage takes over: those that say what is trained on what, and where it is kept."""
    kept = []
    for override in overrides:
        key = override.lstrip("+~").split("=", 1)[0]
        is_inherited = re.split(r"[./]", key)[0] in _INHERITED or key in _DEVICES
        if is_inherited and key not in _OF_ONE_STAGE and key != "paths.output_dir":
            kept.append(override)
    return kept


def experiment_names(config_dir: Path = CONFIG_DIR) -> list[str]:
    """The experiments that `+experiment=` and `init_from=` can name."""
    return options(config_dir, "experiment")


def benchmarks(config: DictConfig) -> dict[str, DictConfig]:
    """Settings of the benchmark, or of each member of a suite, by their place in the configuration."""
    if "eval" not in config:
        return {}
    if config.eval.benchmark != "suite":
        return {"eval": config.eval}
    return {f"eval.members.{name}": member for name, member in config.eval.members.items()}


def metric_names(config: DictConfig) -> list[str]:
    """The metrics that a training run logs."""
    return validated(TrainVerb, OmegaConf.to_container(config)).metric_names()


def is_url(path: str) -> bool:
    """Whether `path` is an address on the web."""
    return path.startswith(("https://", "http://"))


def _missing(node: Any, prefix: str = "") -> list[str]:
    """Keys whose value is still ???; unlike OmegaConf.missing_keys it does not trip over interpolations to them."""
    if node == "???":
        return [prefix]
    items = node.items() if isinstance(node, dict) else ()
    return [key for name, value in items for key in _missing(value, f"{prefix}.{name}" if prefix else str(name))]


def _check_paths(config: DictConfig) -> None:
    """What is to be read must be there: a folder, a file, an experiment, or something that the hub might know."""
    init = config.get("init_from")
    if init is not None and init not in experiment_names() and not (Path(init) / "config.json").is_file():
        raise UserError(
            f"init_from={init}: neither a Hugging Face folder (config.json) nor an experiment; experiments:"
            f" {listed(experiment_names(), init)}"
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
    judge = OmegaConf.select(config, "eval.judge.checkpoint")
    if judge is not None:
        _check_folder("eval.judge.checkpoint", judge)
    check_sources(config)


def _check_folder(key: str, path: str) -> None:
    if (Path(path) / "config.json").is_file():
        return
    remedy = "give one with config.json and *.safetensors"
    if (Path(path) / "adapter_config.json").is_file():
        remedy = "merge the adapter that is there into its base model (peft's merge_and_unload) and save both"
    raise UserError(f"{key}={path}: no Hugging Face folder there (config.json is missing); {remedy}")


def check_sources(config: DictConfig) -> None:
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


def _is_source(path: str | None) -> bool:
    return path is not None and (Path(path).is_file() or is_hub_id(path) or is_url(path))
