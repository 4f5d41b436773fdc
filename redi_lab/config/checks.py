"""Checks beside the models: options that overrides choose, YAML files that Hydra reads, secrets in what it composed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra._internal.config_repository import ConfigRepository
from hydra.plugins.config_source import ConfigResult
from yaml.reader import ReaderError

from redi_lab.errors import UserError, in_short
from redi_lab.redaction import redact, redacted, secret_in

_NAMING = re.compile(r"(name|eval\.name|paths\..*|logger\..*)$")
_MAY_HOLD_PASSWORD = ("sweep.storage",)  # a database's only place for it; redacted wherever it is shown or kept
_OPTION = re.compile(r"\s*[A-Za-z*][\w.*-]*(/[\w-][\w.-]*)*\s*")


def check_choices(overrides: Sequence[str], config_dir: Path) -> None:
    """Hold the options that overrides choose against the files of their groups.

    Hydra itself would read `loss=../x`, a file outside the configuration, and its complaints name no key.

    Raises:
        UserError: an option is not a name, or an experiment is named twice.
    """
    for override in overrides:
        key, equals, value = override.lstrip("+").partition("=")
        if not key.strip() or not (equals or override.startswith("~")):
            raise UserError(f"{override}: cannot be read as KEY=VALUE; write a key, = and a value")
        group = key.partition("@")[0]
        if re.match(r"hydra(\.(?!searchpath)|/|$)", group):
            raise UserError(
                f"{override}: Hydra's settings work only together with its flags; paths.output_dir=DIR may be meant"
            )
        is_group = equals and group and "." not in group and (config_dir / group).is_dir()
        if is_group and not _is_option(value):
            raise UserError(f"{group}={value}: no such option; choose {', '.join(options(config_dir, group))}")
    if len(experiments := [o for o in overrides if o.startswith("+experiment=")]) > 1:
        raise UserError(f"{' '.join(experiments)}: one run has one experiment; give +experiment=NAME once")


def options(config_dir: Path, group: str) -> list[str]:
    """The options of a group; files with a leading underscore are parts of others."""
    return sorted(path.stem for path in (config_dir / group).glob("[!_]*.yaml"))


def _is_option(value: str) -> bool:
    """Whether a group can have this value: options by name, or a mapping that sets keys of the chosen one."""
    if value.startswith("{"):
        return True
    parts = re.split(r"[\[\]'\",()]+", value)  # Hydra's lists, quotes and functions
    return value not in ("", "null") and ".." not in value and all(_OPTION.fullmatch(part) for part in parts if part)


_load_unchecked = ConfigRepository.load_config


def _load_checked(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
    """What Hydra calls for each file of a composition; a user's own, or one from the web, may hold anything.

    Raises:
        UserError: the file is not text in UTF-8, is nested too deeply, or has aliases.
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


# Hydra's only place that knows which files a composition reads: defaults lists lead from one to the next.
ConfigRepository.load_config = _load_checked  # type: ignore[method-assign, assignment]


def check_aliases(file: Path) -> None:
    """Refuse a YAML file with aliases (*NAME): nine lines of them can stand for a billion values.

    Raises:
        ValueError: it has one.
    """
    text = file.read_text(encoding="utf-8")
    if not ("*" in text and "&" in text):
        return
    with file.open(encoding="utf-8") as stream:  # which names the file in errors
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(stream, yaml.SafeLoader)):
            raise ValueError("holds a YAML alias (*NAME); write its values out, or ${KEY}")


def check_secrets(content: Any) -> None:
    """Refuse secrets in a configuration, given as plain mappings and lists: every record of a run holds it.

    Raises:
        UserError: some value holds one, or a name holds a variable that records hide; the message names the key and
            not the secret.
    """
    texts = list(_texts(content))
    is_clean = secret_in("\n".join(value for key, value in texts if key not in _MAY_HOLD_PASSWORD)) is None
    for key, value in texts:
        secret = None if is_clean or key in _MAY_HOLD_PASSWORD else secret_in(value)
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
    elif isinstance(node, Mapping | list):
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from _texts(value, f"{prefix}.{key}" if prefix else str(key))
