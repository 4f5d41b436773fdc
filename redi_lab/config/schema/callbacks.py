"""The callbacks group. What a setting means is said by the class that it is for, and in conf/callbacks/default.yaml."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from redi_lab.config.schema.base import (
    Count,
    NotNegative,
    Positive,
    PositiveShare,
    TargetSettings,
    Text,
    Whole,
    by_target,
    fitting,
)
from redi_lab.errors import UserError


class StatesConfig(TargetSettings, extra="forbid"):
    """Whole training states, to resume from."""

    target: Literal["redi_lab.callbacks.resume.TrainingStates"] = Field(alias="_target_")
    every_n_steps: Count | None
    every_minutes: Positive | None
    keep_last: Count


class NumericsConfig(TargetSettings, extra="forbid"):
    """What becomes of NaN, infinities and explosions."""

    target: Literal["redi_lab.callbacks.numerics.NumericsGuard"] = Field(alias="_target_")
    action: Literal["stop", "skip"]
    max_skips: Count
    explosion: Annotated[float, Field(gt=1)] | None


class UpdateNormConfig(TargetSettings, extra="forbid"):
    """train/update_norm."""

    target: Literal["redi_lab.callbacks.update_norm.UpdateNorm"] = Field(alias="_target_")


class AccuracyConfig(TargetSettings, extra="forbid"):
    """Accuracy during training. All but the interval decide what measures it (`redi_lab.run.build.make_accuracy`)."""

    target: Literal["redi_lab.callbacks.accuracy.InTrainingAccuracy"] = Field(alias="_target_")
    every_n_steps: Count | None
    num_samples: Annotated[int, Field(ge=1, le=100_000)]
    temperature: NotNegative | None
    max_new_tokens: Count | None
    max_batch_tokens: Count


class ProbesConfig(TargetSettings, extra="forbid"):
    """Sequences that are scored again and again; `num_examples` decides which are given to the callback."""

    target: Literal["redi_lab.callbacks.probes.Probes"] = Field(alias="_target_")
    every_n_steps: Count
    num_examples: Count


class GradientConflictConfig(TargetSettings, extra="forbid"):
    """Norms and cosine of the gradients of right and wrong traces."""

    target: Literal["redi_lab.callbacks.gradient_conflict.GradientConflict"] = Field(alias="_target_")
    every_n_steps: Count


class CollapseConfig(TargetSettings, extra="forbid"):
    """The collapse rule (`redi_lab.callbacks.collapse_rule.Limits`), and what is done about a collapse."""

    target: Literal["redi_lab.callbacks.collapse.CollapseDetector"] = Field(alias="_target_")
    action: Literal["warn", "stop", "rollback"]
    drifting_nats: Positive
    collapsed_nats: Positive
    harm_share: PositiveShare
    window_steps: Count | None
    deviations: Positive
    lr_factor: PositiveShare
    alpha_factor: PositiveShare
    max_rollbacks: Whole
    snapshot_every_n_steps: Count

    @model_validator(mode="after")
    def _check_limits(self) -> Self:
        if self.drifting_nats > self.collapsed_nats:
            raise UserError(
                f"callbacks.collapse.drifting_nats={self.drifting_nats:g}: must be at most"
                f" callbacks.collapse.collapsed_nats={self.collapsed_nats:g}"
            )
        return self


class CheckpointsConfig(TargetSettings, extra="forbid"):
    """Hugging Face folders, the last and the best."""

    target: Literal["redi_lab.callbacks.checkpoints.ExportCheckpoints"] = Field(alias="_target_")
    every_n_steps: Count | None
    monitor: Text | None
    mode: Literal["min", "max"]


CALLBACKS = by_target(
    StatesConfig,
    NumericsConfig,
    UpdateNormConfig,
    AccuracyConfig,
    ProbesConfig,
    GradientConflictConfig,
    CollapseConfig,
    CheckpointsConfig,
)

Callbacks = dict[str, Annotated[SerializeAsAny[TargetSettings], fitting(CALLBACKS)] | None]
"""Callbacks by name, in their order; null switches one off."""
