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
        head_gradient: see `HeadGradient`.
        **options: `beta`, scale of the rewards, `gamma`, the margin that chosen is to have over rejected, and those of
            `CausalLMModule`.
    """

    is_logistic = True
    pair_loss = staticmethod(simpo_loss)

    def __init__(self, *, head_gradient: HeadGradient, **options: Any) -> None:
        super().__init__(**options)
        self.head_gradient = head_gradient

    def rewards(self, sequences: SequenceLogps) -> Tensor:
        """(n,) β · log-probs per token."""
        rewards: Tensor = self.beta * sequences.mean_logps
        return rewards
