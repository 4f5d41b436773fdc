"""What stands between ${ and } in a configuration: the lab's resolvers, and errors that name the key."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from redi_lab.errors import UserError
from redi_lab.redaction import remember_variable


def _read_variable(name: str, *default: str | None) -> str | None:
    remember_variable(name)
    value: str | None = oc.env(name, *default)
    return value


def _by_lora(lora: object, yes: object, no: object) -> object:
    """A learning rate that depends on whether adapters are trained: ${by_lora:${model.lora},IF_SO,IF_NOT}."""
    return no if lora is None else yes


def register_resolvers() -> None:
    """Teach OmegaConf the lab's resolvers."""
    OmegaConf.register_new_resolver("oc.env", _read_variable, replace=True)
    OmegaConf.register_new_resolver("cwd", os.getcwd, replace=True)
    OmegaConf.register_new_resolver("abspath", os.path.abspath, replace=True)
    # Hydra's own `now` is the same for all jobs of a multirun, which would then share one results folder.
    OmegaConf.register_new_resolver("timestamp", lambda: datetime.now().strftime("%Y-%m-%d_%H-%M-%S"), replace=True)
    OmegaConf.register_new_resolver("packaged", lambda name: str(Path(__file__).parents[1] / name), replace=True)
    OmegaConf.register_new_resolver("by_lora", _by_lora, replace=True)


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
