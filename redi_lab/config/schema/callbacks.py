"""The callbacks group. What a setting means is said by the class that it is for, and in conf/callbacks/default.yaml."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, create_model

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


def _callback(path: str, **settings: Any) -> type[TargetSettings]:
    """The settings of one callback: the path of its class below redi_lab.callbacks, and name to type."""
    target = (Literal[f"redi_lab.callbacks.{path}"], Field(alias="_target_"))
    fields: dict[str, Any] = {"target": target, **settings}
    return create_model(path.rpartition(".")[2], __base__=TargetSettings, __cls_kwargs__={"extra": "forbid"}, **fields)


CALLBACKS = by_target(
    _callback("resume.TrainingStates", every_n_steps=Count | None, every_minutes=Positive | None, keep_last=Count),
    _callback(
        "numerics.NumericsGuard",
        action=Literal["stop", "skip"],
        max_skips=Count,
        explosion=Annotated[float, Field(gt=1)] | None,
    ),
    _callback("update_norm.UpdateNorm"),
    _callback(  # all but the interval decide what measures it, see `redi_lab.run.build.make_accuracy`
        "accuracy.InTrainingAccuracy",
        every_n_steps=Count | None,
        num_samples=Annotated[int, Field(ge=1, le=100_000)],
        temperature=NotNegative | None,
        max_new_tokens=Count | None,
        max_batch_tokens=Count,
    ),
    _callback("probes.Probes", every_n_steps=Count, num_examples=Count),  # examples that are given to it
    _callback("gradient_conflict.GradientConflict", every_n_steps=Count),
    _callback(  # the rule is `redi_lab.callbacks.collapse_rule.Limits`
        "collapse.CollapseDetector",
        action=Literal["warn", "stop", "prune", "rollback"],
        token_nats=Positive,
        chosen_nats=Positive,
        window_steps=Count | None,
        confirmations=Count,
        drifting_share=PositiveShare,
        deviations=Positive,
        lr_factor=PositiveShare,
        alpha_factor=PositiveShare,
        max_rollbacks=Whole,
        snapshot_every_n_steps=Count,
    ),
    _callback(
        "checkpoints.ExportCheckpoints", every_n_steps=Count | None, monitor=Text | None, mode=Literal["min", "max"]
    ),
)

Callbacks = dict[str, Annotated[SerializeAsAny[TargetSettings], fitting(CALLBACKS)] | None]
"""Callbacks by name, in their order; null switches one off."""
