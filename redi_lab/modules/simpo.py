"""SimPO: a margin between length-normalised log-probs, without a reference model."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from redi_lab.losses.sequences import SequenceLogps
from redi_lab.losses.simpo import simpo_loss
from redi_lab.modules.base import HeadGradient
from redi_lab.modules.preference import PreferenceModule


@final
class SimPOModule(PreferenceModule):
    """Eq. 3.

    Args:
        beta: scale of the rewards.
        gamma: margin that chosen is to have over rejected.
        head_gradient: see `HeadGradient`.
        **options: see `CausalLMModule`.
    """

    is_linear = False
    is_logistic = True

    def __init__(self, *, beta: float, gamma: float, head_gradient: HeadGradient, **options: Any) -> None:
        super().__init__(**options)
        self.beta = beta
        self.gamma = gamma
        self.head_gradient = head_gradient

    def pair_losses(self, chosen: SequenceLogps, rejected: SequenceLogps) -> Tensor:
        """(n,) −log σ(β·(mean log-prob margin) − γ)."""
        return simpo_loss(chosen, rejected, beta=self.beta, gamma=self.gamma)

    def rewards(self, sequences: SequenceLogps) -> Tensor:
        """(n,) β · log-probs per token."""
        return self.beta * sequences.mean_logps
