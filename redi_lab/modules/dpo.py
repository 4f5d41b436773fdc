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
        head_gradient: see `HeadGradient`.
        **options: `beta`, scale of the log-prob ratios, and those of `CausalLMModule`.
    """

    is_logistic = True
    needs_reference = True
    pair_loss = staticmethod(dpo_loss)

    def __init__(self, *, head_gradient: HeadGradient, **options: Any) -> None:
        super().__init__(**options)
        self.head_gradient = head_gradient

    def rewards(self, sequences: SequenceLogps) -> Tensor:
        """(n,) β · log π/π_ref."""
        return dpo_rewards(sequences, beta=self.beta)
