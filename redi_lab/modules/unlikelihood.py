"""Unlikelihood training: a rejected token is pushed by its odds, which vanish with its probability."""

from __future__ import annotations

from typing import final

from torch import Tensor

from redi_lab.losses.token_local import fading_redi_loss, unlikelihood
from redi_lab.modules.pair_forms import TokenLocalModule


@final
class UnlikelihoodModule(TokenLocalModule):
    """−m_w − α · mean log(1 − p) over rejected tokens."""

    pair_loss = staticmethod(fading_redi_loss)

    def token_term(self, logps: Tensor, reference: Tensor | None) -> Tensor:
        """(c,) −log(1 − p)."""
        return unlikelihood(logps)
