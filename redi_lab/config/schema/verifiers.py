"""The group verifier: what says whether completions solve their problems."""

from __future__ import annotations

from shutil import which
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny

from redi_lab.config.schema.base import TargetSettings, Text, Whole, allowed, by_target, fitting

_THERE = "a program that is there, by its path or by a name on PATH"
_Program = Annotated[Text, allowed(which, f"{_THERE}: install it, or correct this")]


def _is_command(words: list[str]) -> bool:
    return bool(words) and which(words[0]) is not None


class MathVerifierConfig(TargetSettings, extra="forbid"):
    """Compares final answers."""

    target: Literal["redi_lab.verifiers.math.MathVerifier"] = Field(alias="_target_")


class ReasoningGymVerifierConfig(TargetSettings, extra="forbid"):
    """The scorers of reasoning-gym."""

    target: Literal["redi_lab.verifiers.reasoning_gym.ReasoningGymVerifier"] = Field(alias="_target_")
    difficulty: Whole | None
    options: dict[Text, dict[Text, Any]] | None


class CoqVerifierConfig(TargetSettings, extra="forbid"):
    """Compiles proofs."""

    target: Literal["redi_lab.verifiers.coq.CoqVerifier"] = Field(alias="_target_")
    coqc: _Program
    libraries: list[Text]
    axioms: list[Text]
    tactics: list[Text]


class CommandVerifierConfig(TargetSettings, extra="forbid"):
    """Asks a program of the user."""

    target: Literal["redi_lab.verifiers.command.CommandVerifier"] = Field(alias="_target_")
    command: Annotated[list[Text], allowed(_is_command, f"a list: {_THERE}, and its arguments")]


VERIFIERS = by_target(MathVerifierConfig, ReasoningGymVerifierConfig, CoqVerifierConfig, CommandVerifierConfig)
WITHOUT_ANSWERS = frozenset(by_target(CoqVerifierConfig, CommandVerifierConfig))
"""Those that look for no final answer, so that `curation.require_answer` would miss it in what they call wrong."""
Verifier = Annotated[SerializeAsAny[TargetSettings], fitting(VERIFIERS)]
