"""DPO: a margin between log-prob ratios to a frozen reference."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from redi_lab.losses.dpo import dpo_loss, dpo_rewards
from redi_lab.losses.sequences import SequenceLogps
from redi_lab.modules.base import HeadGradient
from redi_lab.modules.preference import PreferenceModule


@final
class DPOModule(PreferenceModule):
    """Eq. 2. The reference's log-probs arrive with the batch (`backbone/reference.py`), so it needs no memory here.

    Args:
        beta: scale of the log-prob ratios.
        head_gradient: see `HeadGradient`.
        **options: see `CausalLMModule`.
    """

    is_linear = False
    is_logistic = True
    needs_reference = True

    def __init__(self, *, beta: float, head_gradient: HeadGradient, **options: Any) -> None:
        super().__init__(**options)
        self.beta = beta
        self.head_gradient = head_gradient

    def pair_losses(self, chosen: SequenceLogps, rejected: SequenceLogps) -> Tensor:
        """(n,) −log σ(β·(difference of log-prob ratios))."""
        return dpo_loss(chosen, rejected, beta=self.beta)

    def rewards(self, sequences: SequenceLogps) -> Tensor:
        """(n,) β · log π/π_ref."""
        return dpo_rewards(sequences, beta=self.beta)
