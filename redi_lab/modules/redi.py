"""Reinforcement distillation: learn from correct and incorrect traces without a reference model (stage 2)."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from redi_lab.losses.redi import redi_loss
from redi_lab.losses.sequences import SequenceLogps
from redi_lab.modules.preference import PreferenceModule


@final
class REDIModule(PreferenceModule):
    """Eq. 5; with ``alpha=1`` the symmetric Eq. 4.

    Args:
        alpha: weight of the negative term, in [0, 1].
        **options: see `CausalLMModule`.
    """

    is_linear = True

    def __init__(self, *, alpha: float, **options: Any) -> None:
        super().__init__(**options)
        self.alpha = alpha

    def pair_losses(self, chosen: SequenceLogps, rejected: SequenceLogps) -> Tensor:
        """(n,) −log π(y_w)/|y_w| + α·log π(y_l)/|y_l|."""
        return redi_loss(chosen, rejected, alpha=self.alpha * self.negative_strength)

    def rewards(self, sequences: SequenceLogps) -> Tensor:
        """(n,) log-probs per token."""
        return sequences.mean_logps
