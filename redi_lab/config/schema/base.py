"""What all settings share: strict types, names for common ranges, and one line for what pydantic finds wrong.

A model is a group of the configuration. It holds the types and ranges; defaults, and what each setting means, stand in
the YAML files of conf/. Nothing in this folder imports torch.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    ValidationError,
    model_validator,
)
from pydantic_core import PydanticCustomError

from redi_lab.errors import UserError

Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Workers = Annotated[int, Field(ge=1, le=1024)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
PositiveShare = Annotated[float, Field(gt=0, le=1)]
Text = Annotated[str, Strict(False), Field(coerce_numbers_to_str=True)]
"""A string; a number on the command line, such as a revision of digits alone, is one too."""


def allowed(is_allowed: Callable[[Any], bool], words: str) -> AfterValidator:
    """A validator with what it allows in words, such as "a folder"; a field has it in its Annotated type."""

    def check(value: Any) -> Any:
        if not is_allowed(value):
            raise ValueError(words)
        return value

    return AfterValidator(check)


Name = Annotated[
    Text,
    allowed(
        lambda text: re.fullmatch(r"\w[\w.+-]*", text),
        "letters, digits and . _ + -, beginning with a letter or digit: it names files",
    ),
]
Template = Annotated[Text, allowed(lambda text: "{problem}" in text, "a string with {problem} in it")]


class Settings(BaseModel):
    """A group of settings; unknown keys are refused."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, value: Any) -> Any:
        """Before pydantic does, which would not say which keys there are."""
        known = [field.alias or name for name, field in cls.model_fields.items()]
        unknown = [str(key) for key in value if key not in known] if isinstance(value, Mapping) else []
        if unknown and cls.model_config.get("extra") == "forbid":
            raise PydanticCustomError("unknown_key", "unknown key", {"key": unknown[0], "known": known})
        return value


class TargetSettings(Settings, extra="allow"):
    """Settings of the class that `_target_` names.

    Our classes have models below this one. Settings of other classes are held against the signature of the class, once
    it is imported.
    """

    target: Text = Field(alias="_target_")


Target = TypeVar("Target", bound=TargetSettings)


def by_target(*models: type[Target]) -> Mapping[str, type[Target]]:
    """The models by the paths of the classes that they are for."""
    return {name: model for model in models for name in get_args(model.model_fields["target"].annotation)}


def fitting(models: Mapping[str, type[TargetSettings]]) -> BeforeValidator:
    """Holds settings against the model of the class that they name, if there is one."""

    def choose(value: Any) -> Any:
        model = models.get(str(value.get("_target_"))) if isinstance(value, Mapping) else None
        return value if model is None else model.model_validate(value)

    return BeforeValidator(choose)


Model = TypeVar("Model", bound=Settings)


def validated(model: type[Model], value: Any) -> Model:
    """Plain mappings, lists and scalars as a model.

    Raises:
        UserError: they do not fit; the message names the key, the value and what is allowed.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise UserError(explained(error)) from error


_WORDS = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "a string",
    "list_type": "a list [A, B]",
    "dict_type": "a group of settings {{KEY: VALUE}}",
    "model_type": "a group of settings {{KEY: VALUE}}",
    "greater_than": "above {gt:.10g}",
    "greater_than_equal": "at least {ge:.10g}",
    "less_than": "below {lt:.10g}",
    "less_than_equal": "at most {le:.10g}",
    "too_short": "a list of {min_length} values",
    "too_long": "a list of {max_length} values",
    "value_error": "{error}",
}


def explained(error: ValidationError, place: str = "", depth: int | None = None) -> str:
    """The first thing that pydantic found wrong, as one line: key, value, and what is allowed.

    Args:
        error: of a model's validation.
        place: key of the group in the configuration.
        depth: how many parts of the error's place are keys; pydantic appends the member of a union.
    """
    first = error.errors(include_url=False)[0]
    key, context = place, first.get("ctx", {})
    for part in first["loc"][:depth]:
        key = f"{key}[{part}]" if isinstance(part, int) else f"{key}.{part}".removeprefix(".")
    if isinstance(context.get("error"), UserError):  # of a rule across fields
        return str(context["error"])
    if first["type"] == "unknown_key":
        return unknown_key(context["key"], key, context["known"])
    if first["type"] == "missing":
        return f"{key} is missing: drop ~{key}, or add ++{key}=VALUE"
    if first["type"] == "literal_error":  # in Python's notation
        words = context["expected"].replace("'", "").replace("True", "true").replace("False", "false")
        return f"{key}={shown(first['input'])}: must be {words}"
    words = _WORDS.get(first["type"])
    return f"{key}={shown(first['input'])}: " + (f"must be {words.format(**context)}" if words else first["msg"])


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)


def unknown_key(key: str, group: str, known: Sequence[str]) -> str:
    """The line for a key that a group does not have."""
    place = f"{group}.{key}" if group else key
    names = [name for name in known if not name.startswith("_")]
    return f"unknown key {place}: {f'{group} has' if group else 'there are'} {listed(names, key)}"


def listed(names: Sequence[str], wrong: object) -> str:
    """Names, and which of them may be meant."""
    close = difflib.get_close_matches(str(wrong), names, n=1)
    return ", ".join(names) + (f" (did you mean {close[0]}?)" if close else "")
