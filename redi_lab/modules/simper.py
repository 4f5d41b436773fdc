"""SimPER: the difference of geometric mean token probabilities."""

from __future__ import annotations

from typing import final

from redi_lab.losses.separable import simper_loss
from redi_lab.modules.pair_forms import SeparableModule


@final
class SimPERModule(SeparableModule):
    """−e^{m_w} + e^{m_l}."""

    pair_loss = staticmethod(simper_loss)
