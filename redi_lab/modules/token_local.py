"""Objectives on pairs that weigh each token by its own log-prob: functions of `redi_lab.losses.token_local`."""

from __future__ import annotations

from typing import Any, final

from torch import Tensor

from redi_lab.losses import token_local
from redi_lab.modules.preference import PreferenceModule


class TokenLocalModule(PreferenceModule):
    """A loss that is linear in means of log-probs and of `token_term`; abstract."""

    is_linear = True
    has_token_term = True
    pair_loss = staticmethod(token_local.fading_redi_loss)


@final
class UnlikelihoodModule(TokenLocalModule):
    """−m_w − α · mean log(1 − p) over rejected tokens: each is pushed by its odds, which vanish with p."""

    def token_term(self, logps: Tensor, reference: Tensor | None) -> Tensor:
        """(c,) −log(1 − p)."""
        return token_local.unlikelihood(logps)


@final
class TokenTOPRModule(TokenLocalModule):
    """−m_w + α · mean min(π/μ, 1) ℓ over rejected tokens, with the sampler μ as the reference."""

    needs_token_reference = True

    def token_term(self, logps: Tensor, reference: Tensor | None) -> Tensor:
        """(c,) min(π/μ, 1) ℓ."""
        assert reference is not None
        return token_local.tapered(logps, reference)


@final
class LUFFYModule(TokenLocalModule):
    """−mean φ over chosen tokens + α · mean φ over rejected ones, φ = p/(p + γ): tokens near p = γ move most.

    Args:
        gamma: γ > 0.
        **options: see `PreferenceModule`.
    """

    pair_loss = staticmethod(token_local.luffy_loss)

    def __init__(self, *, gamma: float, **options: Any) -> None:
        super().__init__(**options)
        self.gamma = gamma

    def token_term(self, logps: Tensor, reference: Tensor | None) -> Tensor:
        """(c,) p/(p + γ)."""
        return token_local.shaped_probability(logps, gamma=self.gamma)
