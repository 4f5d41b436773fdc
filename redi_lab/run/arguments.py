"""Holds settings against the signatures of classes without a model in `redi_lab.config.schema`: a user's own, torch's.

So a key that a class does not take, or a value of another type, is found before any data is read.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_type_hints

import pytorch_lightning as pl
import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from pydantic import ConfigDict, Field, ValidationError, create_model

from redi_lab.config.schema.base import TargetSettings, explained, unknown_key
from redi_lab.config.schema.callbacks import CALLBACKS
from redi_lab.config.schema.data import SOURCES
from redi_lab.config.schema.evaluation import ENGINES
from redi_lab.config.schema.training import OPTIMIZERS
from redi_lab.config.schema.verifiers import VERIFIERS
from redi_lab.errors import UserError
from redi_lab.run.build import USED_BY_PIPELINE


def check_arguments(config: DictConfig) -> None:
    """Check source, optimizer, engine, verifier and callbacks of a configuration, those of them that it has.

    Raises:
        UserError: a class cannot be found or is of another kind, or a setting is unknown or has another type.
    """
    for place, settings, models, is_kind in _instantiated(config):
        target = settings._target_
        if target in models:
            continue
        try:
            found = get_class(target)
        except Exception as error:  # whatever importing somebody's module raises
            raise UserError(
                f"{place}._target_={target}: cannot be imported; name a class as PACKAGE.MODULE.CLASS"
            ) from error
        if not is_kind(found):
            raise UserError(f"{place}._target_={target}: is not what {place} needs; see the shipped conf/ for one")
        _check_settings(place, settings, found)


def _instantiated(
    config: DictConfig,
) -> Iterator[tuple[str, DictConfig, Mapping[str, type[TargetSettings]], Callable[[type], bool]]]:
    if "data" in config:
        yield "data.source", config.data.source, SOURCES, lambda c: hasattr(c, "load") and hasattr(c, "digest")
    if "engine" in config:
        yield "engine", config.engine, ENGINES, lambda c: hasattr(c, "stream") and hasattr(c, "close")
    if "verifier" in config:
        yield "verifier", config.verifier, VERIFIERS, lambda c: hasattr(c, "grade_all") and hasattr(c, "settings")
    if "optimizer" in config:
        yield "optimizer", config.optimizer, OPTIMIZERS, lambda c: issubclass(c, torch.optim.Optimizer)
    for name, settings in config.get("callbacks", {}).items():
        if settings is not None:
            yield f"callbacks.{name}", settings, CALLBACKS, lambda c: issubclass(c, pl.Callback)


def _check_settings(place: str, settings: DictConfig, found: type) -> None:
    parameters = inspect.signature(found).parameters
    read_elsewhere = {*USED_BY_PIPELINE.get(place.rpartition(".")[2], ()), "max_grad_norm", "_target_", "_partial_"}
    plain = OmegaConf.to_container(settings)
    assert isinstance(plain, dict)
    given = {str(key): value for key, value in plain.items() if key not in read_elsewhere}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    if not takes_any and (unknown := [name for name in given if name not in parameters]):
        raise UserError(unknown_key(unknown[0], place, list(parameters)))
    try:
        hints = get_type_hints(found.__init__)  # type: ignore[misc]
    except NameError:  # of what is imported for type checkers alone
        hints = {}
    # A mapping may become any object. Fields are numbered, as some parameters are called like methods of a model.
    typed = [name for name, value in given.items() if name in hints and not isinstance(value, Mapping)]
    fields: dict[str, Any] = {f"argument_{i}": (hints[name], Field(alias=name)) for i, name in enumerate(typed)}
    options = ConfigDict(strict=True, arbitrary_types_allowed=True)
    try:
        # In JSON a list is also a tuple, and a string a path.
        create_model(found.__name__, __config__=options, **fields).model_validate_json(json.dumps(given))
    except ValidationError as error:
        raise UserError(explained(error, place, depth=1)) from error
