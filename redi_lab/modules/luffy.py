"""LUFFY's policy shaping on teacher's traces: tokens near p = γ move most, on both sides."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from redi_lab.losses.token_local import luffy_loss, shaped_probability
from redi_lab.modules.pair_forms import TokenLocalModule


@final
class LUFFYModule(TokenLocalModule):
    """−mean φ over chosen tokens + α · mean φ over rejected ones, φ = p/(p + γ).

    Args:
        gamma: γ > 0.
        **options: see `PairFormModule`.
    """

    pair_loss = staticmethod(luffy_loss)

    def __init__(self, *, gamma: float, **options: Any) -> None:
        super().__init__(**options)
        self.gamma = gamma

    def token_term(self, logps: Tensor, reference: Tensor | None) -> Tensor:
        """(c,) p/(p + γ)."""
        return shaped_probability(logps, gamma=self.gamma)
