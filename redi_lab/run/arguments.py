"""Holds the settings of a configuration against the signatures of the classes that will get them.

The shipped YAML files list settings, and the classes' annotations say what each may be. So a key that a class does not
take, or a value of another type, is told before any data is read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytorch_lightning as pl
import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf

from redi_lab.config.checks import in_words
from redi_lab.errors import UserError
from redi_lab.run.build import USED_BY_PIPELINE

_MAY_BE_NULL = ("max_grad_norm", "max_new_tokens", "temperature")  # of the settings that are read elsewhere


def check_arguments(config: DictConfig) -> None:
    """Check source, optimizer, engine and callbacks of a configuration, those of them that it has.

    Raises:
        UserError: a class cannot be found or is of another kind, or a setting is unknown or has another type.
    """
    for place, settings, is_kind in _instantiated(config):
        target = settings.get("_target_")
        try:
            found = get_class(str(target))
        except Exception as error:  # whatever importing somebody's module raises
            raise UserError(
                f"{place}._target_={target}: cannot be imported; name a class as PACKAGE.MODULE.CLASS"
            ) from error
        if not is_kind(found):
            raise UserError(f"{place}._target_={target}: is not what {place} needs; see the shipped conf/ for one")
        _check_settings(place, settings, found)


def _instantiated(config: DictConfig) -> Iterator[tuple[str, DictConfig, Callable[[type], bool]]]:
    if "data" in config:
        yield "data.source", config.data.source, lambda found: hasattr(found, "load") and hasattr(found, "digest")
    if "engine" in config:
        yield "engine", config.engine, lambda found: hasattr(found, "generate") and hasattr(found, "close")
    if "optimizer" in config:
        yield "optimizer", config.optimizer, lambda found: issubclass(found, torch.optim.Optimizer)
    for name, settings in config.get("callbacks", {}).items():
        if settings is not None:
            yield f"callbacks.{name}", settings, lambda found: issubclass(found, pl.Callback)


def _check_settings(place: str, settings: DictConfig, found: type) -> None:
    hints = get_type_hints(found.__init__)  # type: ignore[misc]
    parameters = inspect.signature(found).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    read_elsewhere = (*USED_BY_PIPELINE.get(place.rpartition(".")[2], ()), "max_grad_norm", "_target_", "_partial_")
    plain = OmegaConf.to_container(settings)
    assert isinstance(plain, Mapping)
    for key, value in plain.items():
        if key in read_elsewhere:
            if value is None and key not in _MAY_BE_NULL:
                raise UserError(f"{place}.{key!s}=null: needs a value; drop it for the default")
        elif key not in parameters:
            if not takes_any:
                known = [
                    name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_POSITIONAL
                ]
                raise UserError(f"unknown key {place}.{key!s}: {found.__name__} takes {', '.join(known)}")
        elif not fits(value, hints.get(str(key), Any)):
            shown = "null" if value is None else value
            raise UserError(f"{place}.{key!s}={shown}: must be {in_words(hints[str(key)])}")


def fits(value: object, hint: Any) -> bool:
    """Whether a plain value of a configuration is what an annotation says; a mapping may become any object."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, one) for one in arguments)
    if origin is Literal:
        return value in arguments
    if origin in (Sequence, list):
        return isinstance(value, list) and all(fits(item, arguments[0]) for item in value)
    if origin is tuple:
        return isinstance(value, list) and len(value) == len(arguments)
    if isinstance(value, bool) or hint in (bool, NoneType, str, int):
        return isinstance(value, hint) and isinstance(value, bool) == (hint is bool)
    if hint in (float, Path):
        return isinstance(value, int | float if hint is float else str)
    return isinstance(value, Mapping)
