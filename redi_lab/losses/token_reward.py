"""OREAL's token reward model: scores of tokens that are learned from verdicts on whole traces, and its weights ω."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from redi_lab.losses.sequences import SequenceLogps, check_sequences


def token_reward_loss(scores: SequenceLogps, is_right: Tensor) -> Tensor:
    """(n,) −log σ(±s̄) of each trace, s̄ the mean of its tokens' scores: + where it is right, − where it is wrong.

    Args:
        scores: of n completions, with sums of scores in the place of log-probs.
        is_right: (n,) bool, the verdicts.

    Raises:
        ValueError: shapes differ or a completion has no tokens.

    References:
        Lyu et al., Exploring the Limit of Outcome Reward, arXiv 2502.06781.
    """
    check_sequences("scores", scores)
    means = scores.mean_logps
    return F.binary_cross_entropy_with_logits(means, is_right.to(means.dtype), reduction="none")


def omega(scores: Tensor, *, is_right: bool, top_share: float | None = None) -> Tensor:
    """(T,) ω in [0, 1] of the tokens of one trace, by p_t = σ(mean of s_1 … s_t) or, where it is wrong, 1 − p_t.

    Args:
        scores: (T,) s_t.
        is_right: its verdict.
        top_share: None: ω = max(0, 2p − 1), so that only what speaks for the verdict counts. A share in (0, 1]: that of
            the tokens with the largest p, whose ω rises from 0 to 1 with p; at least one token.

    References:
        The authors' code (`threshold_rescale` at ½, `topk_rescale`), github.com/InternLM/OREAL.
    """
    means = scores.double().cumsum(0) / torch.arange(1, len(scores) + 1, device=scores.device)
    p = torch.sigmoid(means if is_right else -means)
    if top_share is None:
        return (2.0 * p - 1.0).clamp(min=0.0)
    largest, places = p.topk(max(1, int(top_share * len(p))))
    low, high = largest[-1], largest[0]
    rescaled = (largest - low) / (high - low) if high > low else torch.ones_like(largest)
    return torch.zeros_like(p).index_put((places,), rescaled)
