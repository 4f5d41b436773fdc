"""Tapered off-policy REINFORCE: negatives weigh what the policy still makes of their sampler's probability."""

from __future__ import annotations

from typing import final

from redi_lab.losses.separable import topr_loss
from redi_lab.modules.pair_forms import SeparableModule


@final
class TOPRModule(SeparableModule):
    """−m_w + α min(π/μ, 1) m_l, with the sampler μ as the reference."""

    needs_reference = True
    pair_loss = staticmethod(topr_loss)
