"""REDI with a gate on its negatives."""

from __future__ import annotations

from typing import final

from redi_lab.losses.separable import gated_redi_loss
from redi_lab.modules.pair_forms import SeparableModule


@final
class GatedREDIModule(SeparableModule):
    """−m_w + α σ(κ(e^{m_l} − τ)) m_l."""

    pair_loss = staticmethod(gated_redi_loss)
