"""Checks of a configuration that no schema expresses: names that become folders, values of other libraries, secrets.

`redi_lab.config.compose` calls them. Nothing here imports torch.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from hydra._internal.config_repository import ConfigRepository
from hydra.plugins.config_source import ConfigResult
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml.reader import ReaderError

from redi_lab.config.values import is_whole
from redi_lab.errors import UserError, in_short
from redi_lab.redaction import redact, redacted, secret_in

_NAME = re.compile(r"\w[\w.+-]*")
_OPTION = re.compile(r"\s*[A-Za-z_*][\w.*-]*(/[\w-][\w.-]*)*\s*")
_STORES = ("sqlite", "http", "https", "postgresql", "mysql", "mssql", "file", "databricks")
_NAMING = re.compile(r"(name|eval\.name|paths\..*|logger\..*)$")
_MAY_HOLD_PASSWORD = ("sweep.storage",)  # a database's only place for it; redacted wherever it is shown or kept


def check_choices(overrides: Sequence[str], config_dir: Path) -> None:
    """Hold the options that overrides choose against the files of their groups.

    Hydra itself would read `loss=../x`, a file outside the configuration, and its complaints name no key.

    Raises:
        UserError: an option is no name, or an experiment is named twice.
    """
    for override in overrides:
        key, equals, value = override.lstrip("+").partition("=")
        if not key.strip() or not (equals or override.startswith("~")):
            raise UserError(f"{override}: cannot be read as KEY=VALUE; write a key, = and a value")
        group = key.partition("@")[0]
        if re.match(r"hydra(\.(?!searchpath)|/|$)", group):
            raise UserError(
                f"{override}: Hydra's settings work beside its flags alone; paths.output_dir=DIR may be meant"
            )
        is_group = equals and group and "." not in group and (config_dir / group).is_dir()
        if is_group and not _is_option(value):
            found = sorted(path.stem for path in (config_dir / group).glob("*.yaml"))
            raise UserError(f"{group}={value}: no such option; choose {', '.join(found)}")
    if len(experiments := [o for o in overrides if o.startswith("+experiment=")]) > 1:
        raise UserError(f"{' '.join(experiments)}: one run has one experiment; give +experiment=NAME once")


def _is_option(value: str) -> bool:
    """Whether a group can have this value: options by name, or a mapping that sets keys of the chosen one."""
    if value.startswith("{"):
        return True
    parts = re.split(r"[\[\]'\",()]+", value)  # Hydra's lists, quotes and functions
    return value not in ("", "null") and ".." not in value and all(_OPTION.fullmatch(part) for part in parts if part)


_load_unchecked = ConfigRepository.load_config
_MANY_VALUES = 100_000


def _load_checked(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
    """What Hydra calls for each file of a composition; a user's own, or one from the web, may hold anything.

    Raises:
        UserError: the file is no text in UTF-8, is nested too deeply, or its aliases stand for very many values.
    """
    folders = [Path(source.path) for source in repository.get_sources() if source.scheme() == "file"]
    files = [folder / f"{config_path.removesuffix('.yaml')}.yaml" for folder in folders]
    file = next((file for file in files if os.path.isfile(file)), None)
    try:
        if file is not None:
            check_aliases(file)
        return _load_unchecked(repository, config_path)
    except (RecursionError, ReaderError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        reason = "is nested too deeply" if isinstance(error, RecursionError) else in_short(error)
        raise UserError(f"{file or config_path}: {reason}; correct it, or save it as YAML in UTF-8") from error


# Its only place that knows which files a composition reads: defaults lists lead from one to the next.
ConfigRepository.load_config = _load_checked  # type: ignore[method-assign, assignment]


def check_aliases(file: Path) -> None:
    """Refuse a YAML file whose aliases (*NAME) stand for a hundred thousand values or for what they are part of.

    PyYAML reads nine lines of ten aliases each in no time; a copy of what they stand for has a billion values.

    Raises:
        ValueError: they do.
    """
    sizes: dict[int, float] = {}

    def size(node: Any) -> float:
        if id(node) not in sizes:
            sizes[id(node)] = math.inf  # until it is known: met again by then, it holds itself
            parts = node.value if isinstance(node, yaml.CollectionNode) else ()
            sizes[id(node)] = 1 + sum(
                map(size, chain.from_iterable(p if isinstance(p, tuple) else (p,) for p in parts))
            )
        return sizes[id(node)]

    text = file.read_text(encoding="utf-8")
    if not ("*" in text and "&" in text):
        return
    with file.open(encoding="utf-8") as stream:  # which names the file in errors
        is_small = size(yaml.compose(stream, yaml.SafeLoader)) <= _MANY_VALUES
    if not is_small:
        raise ValueError(f"its aliases stand for more than {_MANY_VALUES:,} values, or for themselves")


def resolve(config: DictConfig) -> None:
    """Resolve all interpolations in place.

    Raises:
        UserError: one cannot be resolved; the message names its key.
    """
    try:
        OmegaConf.resolve(config)
    except OmegaConfBaseException as error:
        key, reason = _unresolved(config) or (error.full_key, str(error))
        raise UserError(
            f"{key}: {reason.splitlines()[0]}; correct what stands between ${{ and }}, or give a value"
        ) from error


def _unresolved(node: Any, prefix: str = "") -> tuple[str, str] | None:
    """The first key whose interpolation fails, and why."""
    keys = range(len(node)) if isinstance(node, ListConfig) else list(node)
    for key in keys:
        place = f"{prefix}.{key}" if prefix else str(key)
        if OmegaConf.is_missing(node, key):
            continue
        try:
            value = node[key]
        except OmegaConfBaseException as error:
            return place, str(error)
        found = _unresolved(value, place) if isinstance(value, DictConfig | ListConfig) else None
        if found:
            return found
    return None


def read_prompt(settings: DictConfig) -> None:
    """Put the text of `prompt_file`, without its last line break, in the place of `prompt_template`.

    Args:
        settings: the eval group.

    Raises:
        UserError: the file cannot be read, or has no {problem} in it.
    """
    path = settings.get("prompt_file")
    if path is None:
        return
    try:
        if not Path(str(path)).is_file():
            raise FileNotFoundError("no such file")
        text = Path(str(path)).read_text(encoding="utf-8").removesuffix("\n")
    except (OSError, ValueError) as error:
        raise UserError(f"eval.prompt_file={path}: {in_short(error)}; give a text file in UTF-8") from error
    if "{problem}" not in text:
        raise UserError(f"eval.prompt_file={path}: has no {{problem}} in it; write that where the problem belongs")
    settings.prompt_template = text


def check_names(config: DictConfig) -> None:
    """Refuse names that would lead out of the folder that they are to name.

    Raises:
        UserError: a run, a study or a benchmark has such a name, or a folder has none.
    """
    named = {"name": config.name}
    if "eval" in config:
        named |= {"eval.name": config.eval.name} if config.eval.name is not None else {}
        named |= {f"eval.members.{name}": name for name in config.eval.members}
    for key, name in named.items():
        if isinstance(name, bool) or not isinstance(name, str | int) or not _NAME.fullmatch(str(name)):
            raise UserError(
                f"{key}={name}: names files, so it must be made of letters, digits and . _ + - and begin with a letter"
                " or digit"
            )
    for key, path in config.paths.items():
        if not path:
            raise UserError(f"paths.{key}={path}: give a folder")


def check_secrets(config: DictConfig) -> None:
    """Refuse secrets in a configuration: it is written into every record of a run.

    Raises:
        UserError: some value holds one, or a name holds a variable that records hide; the message names the key and
            not the secret.
    """
    for key, value in _texts(config):
        secret = None if key in _MAY_HOLD_PASSWORD else secret_in(value)
        if secret is not None:
            raise UserError(
                f"{key}={redact(value)}: holds {secret}, which every record of the run would show; leave it in the"
                " environment, where the libraries find it (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD,"
                " PGPASSWORD or ~/.pgpass, HF_TOKEN)"
            )
        if _NAMING.match(key) and redacted(value) != value:
            raise UserError(
                f"{key}={redact(value)}: names what is written, so the variable cannot be hidden; write its value out,"
                " or call it REDI_LAB_NAME"
            )


def _texts(node: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield prefix, node
    elif isinstance(node, DictConfig | ListConfig):
        for key in range(len(node)) if isinstance(node, ListConfig) else list(node):
            if not OmegaConf.is_missing(node, key):  # a verb may do without a value that another requires
                yield from _texts(node[key], f"{prefix}.{key}" if prefix else str(key))


def check_store(uri: str | None) -> None:
    """Check the address of an MLflow store.

    Raises:
        UserError: no store is addressed like that.
    """
    if uri is None or uri == "databricks":
        return
    kind = uri.partition("://")[0].partition("+")[0]
    if "://" not in uri or kind not in _STORES or (kind == "sqlite" and not uri.startswith("sqlite:////")):
        raise UserError(
            f"logger.tracking_uri={redact(uri)}: give sqlite:////absolute/path/mlflow.db, http://HOST:PORT of an MLflow"
            " server, or use logger=none"
        )


_WORDS: dict[Any, str] = {
    float: "a number",
    int: "a whole number",
    bool: "true or false",
    str: "a text",
    NoneType: "null",
    Any: "anything",
}


def in_words(hint: Any) -> str:
    """What an annotation allows, for an error message."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return " or ".join(in_words(one) for one in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin in (list, Sequence):
        return f"a list, each item {in_words(arguments[0])}"
    return _WORDS.get(hint, "a mapping {KEY: VALUE}")


def check_trainer(trainer: DictConfig) -> None:
    """Check that something ends the training.

    Raises:
        UserError: neither epochs nor steps do.
    """
    epochs, steps = trainer.get("max_epochs"), trainer.get("max_steps", -1)
    if steps != -1 and not is_whole(1)(steps):
        raise UserError(f"trainer.max_steps={steps}: must be a whole number of at least 1, or -1: max_epochs decides")
    if not is_whole(1)(epochs) and (steps == -1 or epochs not in (None, -1)):
        raise UserError(
            f"trainer.max_epochs={epochs}: must be a whole number of at least 1 (or -1 beside trainer.max_steps)"
        )


def check_callbacks(callbacks: DictConfig) -> None:
    """Check that each callback is off or a group of settings.

    Raises:
        UserError: one is something else.
    """
    for key, settings in callbacks.items():
        if settings is not None and not (isinstance(settings, DictConfig) and "_target_" in settings):
            raise UserError(
                f"callbacks.{key!s}={settings}: must be null, which switches it off, or {{_target_: CLASS, ...}}"
            )


def check_optimizer(optimizer: DictConfig) -> None:
    """Check that an optimizer has a learning rate; it would take its own default without a word.

    Raises:
        UserError: it has none.
    """
    if optimizer.get("lr") is None:
        raise UserError("optimizer.lr is required: add optimizer.lr=VALUE")
