"""REDI that lets go of a rejected trace once it is unlikely."""

from __future__ import annotations

from typing import final

from redi_lab.losses.separable import hinge_loss
from redi_lab.modules.pair_forms import SeparableModule


@final
class HingeModule(SeparableModule):
    """−m_w + α [δ + m_l]₊."""

    pair_loss = staticmethod(hinge_loss)
