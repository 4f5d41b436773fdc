"""Variants of DPO that hold the chosen trace's own likelihood up, or weigh the rejected one less.

Δ = log π(y|x) − log π_ref(y|x), summed over tokens; h = Δ_w − Δ_l. All functions take n pairs, return the loss of
each, shape (n,), and raise ValueError where shapes differ, a completion has no tokens or there is no reference. With
the setting that the text names, each is DPO (arXiv 2305.18290, Eq. 7).
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from redi_lab.losses.dpo import dpo_loss
from redi_lab.losses.sequences import SequenceLogps, check_pairs


def dpo_shift_loss(chosen: SequenceLogps, rejected: SequenceLogps, *, beta: float, alpha: float) -> Tensor:
    """(n,) −log σ(β(Δ_w − αΔ_l)): REDI's α inside DPO; α = 1 is DPO.

    References:
        Yang et al., DPO-Shift, arXiv 2502.07599, whose f(λ) is α.
    """
    check_pairs(chosen, rejected)
    up, down = chosen.log_ratios, rejected.log_ratios
    return -F.logsigmoid(beta * (up - alpha * down))


def rpo_loss(chosen: SequenceLogps, rejected: SequenceLogps, *, beta: float, nll_weight: float) -> Tensor:
    """(n,) −log σ(βh) − a·m_w, with a length-normalised likelihood term on the chosen; a = 0 is DPO.

    References:
        Pang et al., Iterative Reasoning Preference Optimization, arXiv 2404.19733.
    """
    return dpo_loss(chosen, rejected, beta=beta) - nll_weight * chosen.mean_logps


def dpop_loss(chosen: SequenceLogps, rejected: SequenceLogps, *, beta: float, penalty: float) -> Tensor:
    """(n,) −log σ(β(h − λ[−Δ_w]₊)): a chosen trace below its reference costs λ times as much; λ = 0 is DPO.

    References:
        Pal et al., Smaug, arXiv 2402.13228.
    """
    check_pairs(chosen, rejected)
    up, down = chosen.log_ratios, rejected.log_ratios
    return -F.logsigmoid(beta * (up - down - penalty * F.relu(-up)))


def cal_dpo_loss(chosen: SequenceLogps, rejected: SequenceLogps, *, beta: float) -> Tensor:
    """(n,) −log σ(h) + ½[(Δ_w − 1/2β)² + (Δ_l + 1/2β)²]: log-ratios are drawn to ±1/2β.

    References:
        Xiao et al., Cal-DPO, arXiv 2412.14516, as in its authors' code, where both squares have the weight ½.
    """
    check_pairs(chosen, rejected)
    up, down = chosen.log_ratios, rejected.log_ratios
    target = 0.5 / beta
    return -F.logsigmoid(up - down) + 0.5 * ((up - target).square() + (down + target).square())
