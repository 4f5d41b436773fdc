"""Hydra's complaints about a composition, as one line with the allowed values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import MarkedYAMLError

from redi_lab.config.checks import options
from redi_lab.config.schema.base import listed, unknown_key
from redi_lab.errors import UserError, in_short


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
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(config_dir.resolve()), version_base="1.3"):
            node = compose(name, good)
        siblings = [str(name) for name in (OmegaConf.select(node, prefix) if prefix else node) or ()]
    except (HydraException, OmegaConfBaseException, TypeError):
        return f"unknown key {key}: --cfg job shows the keys that there are"
    group = prefix.replace(".", "/")
    if not siblings and (config_dir / group).is_dir():  # an option that stands for none
        return f"{key}: {prefix} has no settings; choose one of {group}={', '.join(options(config_dir, group))}"
    if last in siblings or not siblings:  # of a group that takes any keys, such as model.config_overrides
        return f"{key}: new keys are added one by one: +{key}{'.KEY' if siblings else ''}=VALUE"
    return unknown_key(last, prefix, siblings)
