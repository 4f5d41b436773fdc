"""Words of the verbs that have no YAML file: KEY=VALUE on the command line, so their defaults stand here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from redi_lab.config.schema.base import (
    Count,
    NotNegative,
    PositiveShare,
    Seed,
    Settings,
    Template,
    Whole,
    Workers,
    validated,
)
from redi_lab.config.schema.data import TokenWeights

Port = Annotated[int, Field(ge=1, le=65535)]


class Words(Settings, strict=False):
    """What the command line says is text: "3" is a number, and "true" is true."""


class CheckpointWords(Words):
    """What names a checkpoint: a Hugging Face folder, a training's results folder, or an adapter and its base model."""

    checkpoint: str = ""
    base: str | None = None


class ChatWords(CheckpointWords):
    """`chat`."""

    prompt: str | None = None
    temperature: NotNegative = 0.6
    top_p: PositiveShare = 0.95
    max_new_tokens: Count | None = None
    seed: Seed = 42


class MergeWords(CheckpointWords):
    """`merge`."""

    to: str = ""


class CompareWords(Words):
    """`compare`."""

    last: Annotated[int, Field(ge=2)] = 2
    port: Port = 5000


class DoctorWords(Words):
    """`doctor`."""

    python: str = Field("", alias="engine.python")


class GradeWords(Words):
    """`grade`."""

    prediction: str = "prediction"
    gold: str = "gold"
    workers: Workers = 2
    answers: Literal["boxed", "marker", "last_number"] = "boxed"


class RunsWords(Words):
    """`runs`."""

    keep_days: Whole = 0
    interrupted: bool = False
    yes: bool = False


class SlurmWords(Words):
    """`slurm`, beside the overrides of a training."""

    nodes: Count = 1
    gpus: Count = 1
    hours: Count = 24


class UiWords(Words):
    """`ui`."""

    port: Port = 5000


class UploadWords(Words):
    """`upload`."""

    tracking_uri: str | None = None


class PreviewWords(Words):
    """`curate preview`."""

    path: str = ""
    n: Count = 3
    tokenizer: str | None = None
    token_weights: TokenWeights = "none"


class HygieneWords(Words):
    """`curate hygiene`, beside the overrides of a curation."""

    examples: Count = 3


class RevThinkWords(Words):
    """`curate revthink`, beside the overrides of a curation: columns, and prompts of the three tasks."""

    problem: str = "problem"
    completion: str = "completion"
    answer: str = "answer"
    backward_problem: str = "backward_problem"
    backward_completion: str = "backward_completion"
    consistent: str = "consistent"
    forward_prompt: Template = "{problem}"
    backward_question_prompt: Template = (
        "Turn this problem round: write a problem that gives its answer and asks for something that it states."
        "\n\n{problem}"
    )
    backward_prompt: Template = "{problem}"


class AdviseWords(Words):
    """`curate advise`, beside the overrides of a training."""

    context: Count = 4
    pairs: Count = 3000


AnyWords = TypeVar("AnyWords", bound=Words)


def read_words(model: type[AnyWords], arguments: Sequence[str]) -> tuple[list[str], AnyWords, list[str]]:
    """Arguments as plain names, settings, and overrides of the groups paths and logger.

    Raises:
        UserError: a key is unknown, or a value is not allowed.
    """
    names: list[str] = []
    given: dict[str, str] = {}
    overrides: list[str] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals:
            names.append(argument)
        elif key.startswith(("paths.", "logger.")):
            overrides.append(argument)
        else:
            given[key] = value
    return names, validated(model, given), overrides


def split_words(model: type[AnyWords], arguments: Sequence[str]) -> tuple[AnyWords, list[str]]:
    """Settings, and all other arguments, which are overrides of a training.

    Raises:
        UserError: a value is not allowed.
    """
    own = [argument for argument in arguments if argument.partition("=")[0] in model.model_fields and "=" in argument]
    return validated(model, dict(argument.split("=", 1) for argument in own)), [a for a in arguments if a not in own]
