"""The data group: where traces come from, and how they become batches."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from redi_lab.config.schema.base import (
    Count,
    Seed,
    Settings,
    Share,
    TargetSettings,
    Template,
    Text,
    Whole,
    by_target,
    fitting,
)
from redi_lab.errors import UserError

Negatives = Literal["first", "nearest", "longest_prefix", "length_matched", "random", "other_problem", "shuffled_steps"]
TokenWeights = Literal["none", "spans", "after_first_error", "step_advantages"]


class TeacherConfig(TargetSettings, extra="forbid"):
    """The simulated teacher of the embedded tasks."""

    target: Literal["redi_lab.data.teacher.Teacher"] = Field(alias="_target_")
    slip_rate: Annotated[float, Field(ge=0, le=0.5)]  # doubled where a carry comes in
    slip_reach: Annotated[int, Field(ge=1, le=9)]
    haste_last: Share
    haste_before: Share
    haste_slip_rate: Share
    correction_rate: Share
    misconception_rate: Share
    rambling_rate: Share
    truncation_rate: Share
    errs_once: bool


class ArithmeticSourceConfig(TargetSettings, extra="forbid"):
    """The embedded task."""

    target: Literal["redi_lab.data.arithmetic.ArithmeticSource"] = Field(alias="_target_")
    num_problems: Annotated[int, Field(ge=1, le=10_000_000)]
    num_heldout: Whole
    seed: Seed
    negatives: Negatives
    teacher: TeacherConfig


class ChainsSourceConfig(TargetSettings, extra="forbid"):
    """The second embedded task."""

    target: Literal["redi_lab.data.chains.ChainsSource"] = Field(alias="_target_")
    num_problems: Annotated[int, Field(ge=1, le=10_000_000)]
    num_heldout: Whole
    seed: Seed
    negatives: Negatives
    take_share: Annotated[float, Field(ge=0, le=0.9)]  # the others are what is held out
    teacher: TeacherConfig


class CuratedSourceConfig(TargetSettings, extra="forbid"):
    """What `curate` wrote."""

    target: Literal["redi_lab.data.curated.CuratedSource"] = Field(alias="_target_")
    path: Text
    num_heldout: Whole
    seed: Seed


class ReasoningGymSourceConfig(TargetSettings, extra="forbid"):
    """Problems of reasoning-gym."""

    target: Literal["redi_lab.data.reasoning_gym.ReasoningGymSource"] = Field(alias="_target_")
    tasks: Annotated[list[Text], Field(min_length=1)]
    difficulty: Whole | None
    options: dict[Text, dict[Text, Any]]
    num_heldout: Whole
    seed: Seed
    heldout_seed: Seed


class TraceFileSourceConfig(TargetSettings, extra="forbid"):
    """Traces in one of the documented forms."""

    target: Literal["redi_lab.data.readers.TraceFileSource"] = Field(alias="_target_")
    path: Text
    num_heldout: Whole
    seed: Seed
    negatives: Negatives
    format: Literal["auto", "generations", "messages", "completions", "pairs"]
    split: Text
    revision: Text | None


class _OpenR1Config(TargetSettings, extra="forbid"):
    path: Text
    split: Text
    revision: Text | None
    excluded_sources: list[Text]
    num_heldout: Whole
    negatives: Negatives


class OpenR1SourceConfig(_OpenR1Config):
    """OpenR1-Math-Raw under the paper's rules."""

    target: Literal["redi_lab.data.openr1.OpenR1Source"] = Field(alias="_target_")
    shuffle_seed: Seed


class OpenR1Math220kSourceConfig(_OpenR1Config):
    """OpenR1-Math-220k."""

    target: Literal["redi_lab.data.openr1_220k.OpenR1Math220kSource"] = Field(alias="_target_")
    seed: Seed


SOURCES = by_target(
    ArithmeticSourceConfig,
    ChainsSourceConfig,
    CuratedSourceConfig,
    ReasoningGymSourceConfig,
    TraceFileSourceConfig,
    OpenR1SourceConfig,
    OpenR1Math220kSourceConfig,
)


class DataConfig(Settings):
    """Traces, and how they become batches."""

    path: Text | None
    source: Annotated[SerializeAsAny[TargetSettings], fitting(SOURCES)]
    student_tokenizer: Literal["arithmetic", "chains", "bpe"]
    prompt_template: Template
    rejected_prompt_template: Template | None
    thinking_prefix: Text
    negatives: Negatives
    token_weights: TokenWeights
    batch_size: Count
    micro_batch_tokens: Count
    num_validation: Whole
    num_development: Whole
    development_path: Text | None
    max_prompt_tokens: Count | None
    max_completion_tokens: Count | None
    max_sequence_tokens: Count | None
    max_new_tokens: Count

    @model_validator(mode="after")
    def _check_negatives(self) -> Self:
        if isinstance(self.source, CuratedSourceConfig) and self.negatives in (
            "nearest",
            "longest_prefix",
            "length_matched",
            "random",
        ):
            raise UserError(
                f"data.negatives={self.negatives}: data=curated has its pairs already; choose first, other_problem or"
                f" shuffled_steps, or curate with curation.pair_order={self.negatives}"
            )
        return self
