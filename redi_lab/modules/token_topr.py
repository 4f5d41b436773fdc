"""TOPR by token: each rejected token weighs what the policy still makes of its sampler's probability."""

from __future__ import annotations

from typing import final

from torch import Tensor

from redi_lab.losses.token_local import fading_redi_loss, tapered
from redi_lab.modules.pair_forms import TokenLocalModule


@final
class TokenTOPRModule(TokenLocalModule):
    """−m_w + α · mean min(π/μ, 1) ℓ over rejected tokens, with the sampler μ as the reference."""

    needs_token_reference = True
    pair_loss = staticmethod(fading_redi_loss)

    def token_term(self, logps: Tensor, reference: Tensor | None) -> Tensor:
        """(c,) min(π/μ, 1) ℓ."""
        assert reference is not None
        return tapered(logps, reference)
