"""Objectives whose weight of a token depends on that token's log-prob ℓ alone, so that pushing fades token by token.

Each is a function φ of single tokens, which the kernel applies in its one pass over the vocabulary, and a loss that is
linear in the mean log-probs m and in the means φ̄ of it over a trace.

| member | on chosen | on rejected | weight of ∇ℓ in a rejected trace |
|---|---|---|---|
| unlikelihood | −m | α φ̄, φ = −log(1 − p) | α p/(1 − p) |
| LUFFY's shaping | −φ̄ | α φ̄, φ = p/(p + γ) | α γp/(p + γ)², and the same on chosen tokens |
| TOPR by token | −m | α φ̄, φ = min(π/μ, 1) ℓ, ratio detached | α min(π/μ, 1) |

p = e^ℓ is the token's probability, μ the sampler. Losses take n pairs, return the loss of each, shape (n,), and raise
ValueError where shapes differ, a completion has no tokens or its terms are missing.
"""

from __future__ import annotations

import torch
from torch import Tensor

from redi_lab.losses.sequences import SequenceLogps, check_pairs

_CERTAIN = -1e-6
"""Log-prob above which a token's −log(1 − p) is taken as a constant: in fp32 1 − p is all rounding there."""


def fading_redi_loss(chosen: SequenceLogps, rejected: SequenceLogps, *, alpha: float) -> Tensor:
    """(n,) −m_w + α φ̄_l.

    Args:
        chosen: n correct completions.
        rejected: n incorrect completions, with their terms.
        alpha: weight of the negative term, in [0, 1].
    """
    check_pairs(chosen, rejected)
    return -chosen.mean_logps + alpha * rejected.mean_terms


def luffy_loss(chosen: SequenceLogps, rejected: SequenceLogps, *, alpha: float) -> Tensor:
    """(n,) −φ̄_w + α φ̄_l.

    Args:
        chosen: n correct completions, with their terms.
        rejected: n incorrect completions, with theirs.
        alpha: weight of the negative term, in [0, 1].
    """
    check_pairs(chosen, rejected)
    return alpha * rejected.mean_terms - chosen.mean_terms


def unlikelihood(logps: Tensor) -> Tensor:
    """(c,) −log(1 − p) of each token.

    References:
        Welleck et al., Neural Text Generation with Unlikelihood Training, arXiv 1908.04319.
    """
    return -torch.log(-torch.expm1(logps.clamp(max=_CERTAIN)))


def shaped_probability(logps: Tensor, *, gamma: float) -> Tensor:
    """(c,) p/(p + γ) of each token; its slope in ℓ is largest at p = γ and vanishes at p → 0.

    References:
        Yan et al., LUFFY, arXiv 2504.14945, policy shaping with γ = 0.1.
    """
    probabilities = logps.exp()
    return probabilities / (probabilities + gamma)


def tapered(logps: Tensor, sampler: Tensor) -> Tensor:
    """(c,) min(π/μ, 1) ℓ of each token, with the ratio as a constant.

    Args:
        logps: (c,) under the policy π.
        sampler: (c,) under μ.

    References:
        Le Roux et al., Tapered Off-Policy REINFORCE, arXiv 2503.14286; by token as in the ROLL library.
    """
    return (logps - sampler).clamp(max=0.0).exp().detach() * logps
