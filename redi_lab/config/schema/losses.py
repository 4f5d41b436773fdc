"""Settings of the objectives: one model each, named by the path of its module."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

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

    cost_class: ClassVar[str] = "A"
    """What it costs beside SFT, see docs/objectives.md."""

    target: Annotated[Text, allowed(lambda path: path in LOSSES, "an objective: choose one with loss=NAME")] = Field(
        alias="_target_"
    )
    partial: Literal[True] = Field(alias="_partial_")
    log_entropy: bool
    kl_weight: NotNegative


class ScheduledConfig(LossConfig):
    """Objectives whose negative term has a weight."""

    alpha_schedule: Literal["constant", "linear", "cosine", "warmup"]


class AlphaConfig(ScheduledConfig):
    """Objectives whose negative term is weighed by α."""

    alpha: Share


class PairsConfig(LossConfig):
    """Objectives on pairs: weights of what the sides share from their start, and of what one has beyond the other."""

    prefix_weight: NotNegative
    tail_weight: NotNegative


class ReferenceConfig(LossConfig):
    """Objectives that compare with another policy: `init`, the one before training, or a Hugging Face folder."""

    reference: Text


class SFTConfig(LossConfig, extra="forbid"):
    """Eq. 1."""

    target: Literal["redi_lab.modules.sft.SFTModule"] = Field(alias="_target_")


class UnpairedREDIConfig(AlphaConfig, extra="forbid"):
    """Eq. 5 without pairs."""

    target: Literal["redi_lab.modules.unpaired_redi.UnpairedREDIModule"] = Field(alias="_target_")


class REDIConfig(PairsConfig, AlphaConfig, extra="forbid"):
    """Eq. 5."""

    target: Literal["redi_lab.modules.redi.REDIModule"] = Field(alias="_target_")


class _PairwiseConfig(PairsConfig, extra="forbid"):
    cost_class = "C2"
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

    cost_class = "C1"
    target: Literal["redi_lab.modules.simper.SimPERModule"] = Field(alias="_target_")


class BoundedREDIConfig(PairsConfig, AlphaConfig, extra="forbid"):
    """See `redi_lab.modules.bounded_redi`."""

    cost_class = "C1"
    target: Literal["redi_lab.modules.bounded_redi.BoundedREDIModule"] = Field(alias="_target_")
    gamma: NotNegative
    is_detached: bool


class GatedREDIConfig(PairsConfig, AlphaConfig, extra="forbid"):
    """See `redi_lab.modules.gated_redi`."""

    cost_class = "C1"
    target: Literal["redi_lab.modules.gated_redi.GatedREDIModule"] = Field(alias="_target_")
    kappa: Positive
    tau: Share


class HingeConfig(PairsConfig, AlphaConfig, extra="forbid"):
    """See `redi_lab.modules.hinge`."""

    cost_class = "C1"
    target: Literal["redi_lab.modules.hinge.HingeModule"] = Field(alias="_target_")
    delta: Positive


class TOPRConfig(PairsConfig, AlphaConfig, ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.topr`."""

    cost_class = "C1"
    target: Literal["redi_lab.modules.topr.TOPRModule"] = Field(alias="_target_")


class NPOConfig(PairsConfig, AlphaConfig, ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.npo`."""

    cost_class = "C1"
    target: Literal["redi_lab.modules.npo.NPOModule"] = Field(alias="_target_")
    beta: Positive


class NCAConfig(PairsConfig, ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.nca`."""

    cost_class = "C1"
    target: Literal["redi_lab.modules.nca.NCAModule"] = Field(alias="_target_")
    beta: Positive


class DPOShiftConfig(PairsConfig, AlphaConfig, ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.dpo_shift`."""

    cost_class = "C2"
    target: Literal["redi_lab.modules.dpo_shift.DPOShiftModule"] = Field(alias="_target_")
    beta: Positive


class RPOConfig(PairsConfig, ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.rpo`."""

    cost_class = "C3"
    target: Literal["redi_lab.modules.rpo.RPOModule"] = Field(alias="_target_")
    beta: Positive
    nll_weight: NotNegative


class DPOPConfig(PairsConfig, ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.dpop`."""

    cost_class = "C3"
    target: Literal["redi_lab.modules.dpop.DPOPModule"] = Field(alias="_target_")
    beta: Positive
    penalty: NotNegative


class CalDPOConfig(PairsConfig, ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.cal_dpo`."""

    cost_class = "C3"
    target: Literal["redi_lab.modules.cal_dpo.CalDPOModule"] = Field(alias="_target_")
    beta: Positive


class WReinforceConfig(ScheduledConfig, extra="forbid"):
    """See `redi_lab.modules.w_reinforce`."""

    target: Literal["redi_lab.modules.w_reinforce.WReinforceModule"] = Field(alias="_target_")
    positive_weight: NotNegative
    negative_weight: float


class AsymREConfig(ScheduledConfig, extra="forbid"):
    """See `redi_lab.modules.asymre`."""

    target: Literal["redi_lab.modules.asymre.AsymREModule"] = Field(alias="_target_")
    baseline: Annotated[float, Field(gt=-1, lt=1)]
    is_relative: bool


class OREALConfig(ScheduledConfig, extra="forbid"):
    """See `redi_lab.modules.oreal`."""

    target: Literal["redi_lab.modules.oreal.OREALModule"] = Field(alias="_target_")
    negative_weight: NotNegative


class AStarPOConfig(ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.a_star_po`."""

    cost_class = "C1"
    target: Literal["redi_lab.modules.a_star_po.AStarPOModule"] = Field(alias="_target_")
    beta: Positive
    value_beta: Positive


class KTOConfig(ScheduledConfig, ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.kto`."""

    cost_class = "D"
    target: Literal["redi_lab.modules.kto.KTOModule"] = Field(alias="_target_")
    beta: Positive
    chosen_weight: NotNegative
    rejected_weight: NotNegative


class UnlikelihoodConfig(PairsConfig, AlphaConfig, extra="forbid"):
    """See `redi_lab.modules.unlikelihood`."""

    cost_class = "B"
    target: Literal["redi_lab.modules.unlikelihood.UnlikelihoodModule"] = Field(alias="_target_")


class LUFFYConfig(PairsConfig, AlphaConfig, extra="forbid"):
    """See `redi_lab.modules.luffy`."""

    cost_class = "B"
    target: Literal["redi_lab.modules.luffy.LUFFYModule"] = Field(alias="_target_")
    gamma: Positive


class TokenTOPRConfig(PairsConfig, AlphaConfig, ReferenceConfig, extra="forbid"):
    """See `redi_lab.modules.token_topr`."""

    cost_class = "B"
    target: Literal["redi_lab.modules.token_topr.TokenTOPRModule"] = Field(alias="_target_")


LOSSES: Mapping[str, type[LossConfig]] = by_target(
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
    OREALConfig,
    AStarPOConfig,
    KTOConfig,
    UnlikelihoodConfig,
    LUFFYConfig,
    TokenTOPRConfig,
)
"""The objectives: path of the module → model of its settings."""

Loss = Annotated[SerializeAsAny[LossConfig], fitting(LOSSES)]
