"""REDI whose negative weight fades as the rejected trace becomes unlikely."""

from __future__ import annotations

from typing import final

from redi_lab.losses.separable import bounded_redi_loss
from redi_lab.modules.pair_forms import SeparableModule


@final
class BoundedREDIModule(SeparableModule):
    """−m_w + α m_l e^{γ m_l}."""

    pair_loss = staticmethod(bounded_redi_loss)
