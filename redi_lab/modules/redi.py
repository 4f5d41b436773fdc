"""Reinforcement distillation: learn from correct and incorrect traces without a reference model (stage 2)."""

from __future__ import annotations

from typing import final

from redi_lab.losses.redi import redi_loss
from redi_lab.modules.preference import PreferenceModule


@final
class REDIModule(PreferenceModule):
    """Eq. 5, −m_w + α m_l with α in [0, 1]; with ``alpha=1`` the symmetric Eq. 4."""

    is_linear = True
    pair_loss = staticmethod(redi_loss)
