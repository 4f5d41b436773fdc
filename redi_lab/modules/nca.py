"""Noise contrastive alignment."""

from __future__ import annotations

from typing import final

from redi_lab.losses.separable import nca_loss
from redi_lab.modules.pair_forms import SeparableModule


@final
class NCAModule(SeparableModule):
    """−log σ(βΔ_w) − ½ log σ(−βΔ_w) − ½ log σ(−βΔ_l)."""

    needs_reference = True
    pair_loss = staticmethod(nca_loss)
