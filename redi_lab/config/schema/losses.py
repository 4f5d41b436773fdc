"""Settings of the objectives: one model each, made from the table at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, SerializeAsAny, create_model

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


class PairwiseConfig(PairsConfig):
    """Objectives of class C2 whose loss couples the two sides of a pair in the head."""

    beta: Positive
    head_gradient: Literal["accumulate", "recompute"]


class RewardConfig(LossConfig):
    """Objectives that train a model of rewards and no policy."""

    kl_weight: Annotated[float, Field(ge=0, le=0)]


def _objective(path: str, cost_class: str, *shared: type[LossConfig], **settings: Any) -> type[LossConfig]:
    """The settings of one objective.

    Args:
        path: of its class, below redi_lab.modules.
        cost_class: see `LossConfig`.
        shared: what it shares with others.
        settings: its own, name to type.
    """
    target = (Literal[f"redi_lab.modules.{path}"], Field(alias="_target_"))
    fields: dict[str, Any] = {"target": target, **settings}
    name, base = path.rpartition(".")[2], shared or LossConfig
    model = create_model(name, __base__=base, __cls_kwargs__={"extra": "forbid"}, **fields)
    model.cost_class = cost_class
    return model


_Baseline = Annotated[float, Field(gt=-1, lt=1)]
_Pairs, _Alpha, _Scheduled, _Reference = PairsConfig, AlphaConfig, ScheduledConfig, ReferenceConfig

LOSSES: Mapping[str, type[LossConfig]] = by_target(
    _objective("sft.SFTModule", "A"),
    _objective("unpaired.UnpairedREDIModule", "A", _Alpha),
    _objective("redi.REDIModule", "A", _Pairs, _Alpha),
    _objective("dpo.DPOModule", "C2", _Reference, PairwiseConfig),
    _objective("simpo.SimPOModule", "C2", PairwiseConfig, gamma=NotNegative),
    _objective("separable.SimPERModule", "C1", _Pairs),
    _objective("separable.BoundedREDIModule", "C1", _Pairs, _Alpha, gamma=NotNegative, is_detached=bool),
    _objective("separable.GatedREDIModule", "C1", _Pairs, _Alpha, kappa=Positive, tau=Share),
    _objective("separable.HingeModule", "C1", _Pairs, _Alpha, delta=Positive),
    _objective("separable.TOPRModule", "C1", _Pairs, _Alpha, _Reference),
    _objective("separable.NPOModule", "C1", _Pairs, _Alpha, _Reference, beta=Positive),
    _objective("separable.NCAModule", "C1", _Pairs, _Reference, beta=Positive),
    _objective("dpo_variants.DPOShiftModule", "C2", _Pairs, _Alpha, _Reference, beta=Positive),
    _objective("dpo_variants.RPOModule", "C3", _Pairs, _Reference, beta=Positive, nll_weight=NotNegative),
    _objective("dpo_variants.DPOPModule", "C3", _Pairs, _Reference, beta=Positive, penalty=NotNegative),
    _objective("dpo_variants.CalDPOModule", "C3", _Pairs, _Reference, beta=Positive),
    _objective("unpaired.WReinforceModule", "A", _Scheduled, positive_weight=NotNegative, negative_weight=float),
    _objective("unpaired.AsymREModule", "A", _Scheduled, baseline=_Baseline, is_relative=bool),
    _objective("unpaired.OREALModule", "A", _Scheduled, negative_weight=NotNegative),
    _objective("unpaired.AStarPOModule", "C1", _Reference, beta=Positive, value_beta=Positive),
    _objective(
        "unpaired.KTOModule",
        "D",
        _Scheduled,
        _Reference,
        beta=Positive,
        chosen_weight=NotNegative,
        rejected_weight=NotNegative,
    ),
    _objective("token_reward.TokenRewardModule", "C1", RewardConfig),
    _objective("token_local.UnlikelihoodModule", "B", _Pairs, _Alpha),
    _objective("token_local.LUFFYModule", "B", _Pairs, _Alpha, gamma=Positive),
    _objective("token_local.TokenTOPRModule", "B", _Pairs, _Alpha, _Reference),
)
"""The objectives: path of the module → model of its settings."""

Loss = Annotated[SerializeAsAny[LossConfig], fitting(LOSSES)]
