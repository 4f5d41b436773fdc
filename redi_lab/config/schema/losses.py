"""Settings of the objectives: one model each, named by the path of its module."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from redi_lab.config.schema.base import (
    NotNegative,
    Positive,
    Share,
    TargetSettings,
    Text,
    allowed,
    by_target,
    fitting,
)


class LossConfig(TargetSettings):
    """What all objectives share."""

    target: Annotated[Text, allowed(lambda path: path in LOSSES, "an objective: choose one with loss=NAME")] = Field(
        alias="_target_"
    )
    partial: Literal[True] = Field(alias="_partial_")
    log_entropy: bool


class ScheduledConfig(LossConfig):
    """Objectives whose negative term has a weight."""

    alpha_schedule: Literal["constant", "linear", "cosine", "warmup"]


class AlphaConfig(ScheduledConfig):
    """Objectives whose negative term is weighed by α."""

    alpha: Share


class SFTConfig(LossConfig, extra="forbid"):
    """Eq. 1."""

    target: Literal["redi_lab.modules.sft.SFTModule"] = Field(alias="_target_")


class UnpairedREDIConfig(AlphaConfig, extra="forbid"):
    """Eq. 5 without pairs."""

    target: Literal["redi_lab.modules.unpaired_redi.UnpairedREDIModule"] = Field(alias="_target_")


class PairsConfig(LossConfig):
    """Objectives on pairs, with the weight of the tokens that both sides share from their start."""

    prefix_weight: NotNegative


class REDIConfig(PairsConfig, AlphaConfig, extra="forbid"):
    """Eq. 5."""

    target: Literal["redi_lab.modules.redi.REDIModule"] = Field(alias="_target_")


class ReferenceConfig(PairsConfig):
    """Objectives that compare with another policy: `init`, the one before training, or a Hugging Face folder."""

    reference: Text


class _PairwiseConfig(PairsConfig, extra="forbid"):
    beta: Positive
    head_gradient: Literal["accumulate", "recompute"]


class DPOConfig(ReferenceConfig, _PairwiseConfig):
    """Eq. 2."""

    target: Literal["redi_lab.modules.dpo.DPOModule"] = Field(alias="_target_")


class SimPOConfig(_PairwiseConfig):
    """Eq. 3."""

    target: Literal["redi_lab.modules.simpo.SimPOModule"] = Field(alias="_target_")
    gamma: NotNegative


class SimPERConfig(PairsConfig, extra="forbid"):
    """See `redi_lab.modules.simper`."""

    target: Literal["redi_lab.modules.simper.SimPERModule"] = Field(alias="_target_")


class BoundedREDIConfig(PairsConfig, AlphaConfig, extra="forbid"):
    """See `redi_lab.modules.bounded_redi`."""

    target: Literal["redi_lab.modules.bounded_redi.BoundedREDIModule"] = Field(alias="_target_")
    gamma: NotNegative
    is_detached: bool


class GatedREDIConfig(PairsConfig, AlphaConfig, extra="forbid"):
    """See `redi_lab.modules.gated_redi`."""

    target: Literal["redi_lab.modules.gated_redi.GatedREDIModule"] = Field(alias="_target_")
    kappa: Positive
    tau: Share


class HingeConfig(PairsConfig, AlphaConfig, extra="forbid"):
    """See `redi_lab.modules.hinge`."""

    target: Literal["redi_lab.modules.hinge.HingeModule"] = Field(alias="_target_")
    delta: Positive


class TOPRConfig(AlphaConfig, ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.topr`."""

    target: Literal["redi_lab.modules.topr.TOPRModule"] = Field(alias="_target_")


class NPOConfig(AlphaConfig, ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.npo`."""

    target: Literal["redi_lab.modules.npo.NPOModule"] = Field(alias="_target_")
    beta: Positive


class NCAConfig(ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.nca`."""

    target: Literal["redi_lab.modules.nca.NCAModule"] = Field(alias="_target_")
    beta: Positive


class DPOShiftConfig(AlphaConfig, ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.dpo_shift`."""

    target: Literal["redi_lab.modules.dpo_shift.DPOShiftModule"] = Field(alias="_target_")
    beta: Positive


class RPOConfig(ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.rpo`."""

    target: Literal["redi_lab.modules.rpo.RPOModule"] = Field(alias="_target_")
    beta: Positive
    nll_weight: NotNegative


class DPOPConfig(ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.dpop`."""

    target: Literal["redi_lab.modules.dpop.DPOPModule"] = Field(alias="_target_")
    beta: Positive
    penalty: NotNegative


class CalDPOConfig(ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.cal_dpo`."""

    target: Literal["redi_lab.modules.cal_dpo.CalDPOModule"] = Field(alias="_target_")
    beta: Positive


class WReinforceConfig(ScheduledConfig, extra="forbid"):
    """See `redi_lab.modules.w_reinforce`."""

    target: Literal["redi_lab.modules.w_reinforce.WReinforceModule"] = Field(alias="_target_")
    positive_weight: NotNegative
    negative_weight: NotNegative


class AsymREConfig(ScheduledConfig, extra="forbid"):
    """See `redi_lab.modules.asymre`."""

    target: Literal["redi_lab.modules.asymre.AsymREModule"] = Field(alias="_target_")
    baseline: Annotated[float, Field(ge=0, lt=1)]


LOSSES = by_target(
    SFTConfig,
    UnpairedREDIConfig,
    REDIConfig,
    DPOConfig,
    SimPOConfig,
    SimPERConfig,
    BoundedREDIConfig,
    GatedREDIConfig,
    HingeConfig,
    TOPRConfig,
    NPOConfig,
    NCAConfig,
    DPOShiftConfig,
    RPOConfig,
    DPOPConfig,
    CalDPOConfig,
    WReinforceConfig,
    AsymREConfig,
)
"""The objectives: path of the module → model of its settings."""

Loss = Annotated[SerializeAsAny[LossConfig], fitting(LOSSES)]
