"""Negative preference optimisation beside likelihood on the chosen."""

from __future__ import annotations

from typing import final

from redi_lab.losses.separable import npo_loss
from redi_lab.modules.pair_forms import SeparableModule


@final
class NPOModule(SeparableModule):
    """−m_w + (α/|y_l|)(2/β) log(1 + e^{βΔ_l})."""

    needs_reference = True
    pair_loss = staticmethod(npo_loss)
