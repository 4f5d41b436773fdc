"""What is checked before Hydra composes: the options that overrides choose, and the YAML files that it reads."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import yaml
from hydra._internal.config_repository import ConfigRepository
from hydra.plugins.config_source import ConfigResult
from yaml.reader import ReaderError

from redi_lab.errors import UserError, in_short

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
