"""Objectives on pairs whose sides never meet: one function of each sequence's log-prob, F_w(y_w) + F_l(y_l).

REDI is the linear member of the family. The others let the push on a rejected trace fade as the trace becomes unlikely,
each in its own way.

| member | on chosen | on rejected | weight of ∇m_l |
|---|---|---|---|
| REDI | −m | α m | α |
| SimPER | −e^m | e^m | e^m |
| bounded REDI | −m | α m e^{γm} | α e^{γm} (1 + γm), negative below m = −1/γ; detached: α e^{γm} |
| gated REDI | −m | α σ(κ(e^m − τ)) m, gate detached | α σ(κ(e^m − τ)) |
| hinge | −m | α [δ + m]₊ | α where m > −δ, else 0 |
| TOPR | −m | α min(e^{S − S_μ}, 1) m, ratio detached | α min(π/μ, 1) |
| NPO | −m | α/len · (2/β) log(1 + e^{βΔ}) | α 2σ(βΔ) |
| NCA | −log σ(βΔ) − ½ log σ(−βΔ) | −½ log σ(−βΔ) | ½ β · len · σ(βΔ) |

m is the mean log-prob of a token, S the sum over `len` tokens, Δ = S − S_ref the log-ratio to the reference, μ the
sampler.

All functions take n pairs, return the loss of each, shape (n,), and raise ValueError where shapes differ or a
completion has no tokens, or where there is no reference although there is a Δ.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from redi_lab.losses.sequences import SequenceLogps, check_pairs


def simper_loss(chosen: SequenceLogps, rejected: SequenceLogps) -> Tensor:
    """(n,) −e^{m_w} + e^{m_l}: the difference of geometric mean token probabilities, in (−1, 1); no settings.

    Its gradient is symmetric REDI's with the weights e^{m_w} and e^{m_l}.

    References:
        Xiao et al., SimPER, arXiv 2502.00883.
    """
    check_pairs(chosen, rejected)
    return rejected.mean_logps.exp() - chosen.mean_logps.exp()


def bounded_redi_loss(
    chosen: SequenceLogps, rejected: SequenceLogps, *, alpha: float, gamma: float, is_detached: bool
) -> Tensor:
    """(n,) −m_w + α m_l e^{γ m_l}, in nats per token; with γ = 0 it is REDI.

    Args:
        chosen: n correct completions.
        rejected: n incorrect completions.
        alpha: weight α of the negative term at m_l → 0, in [0, 1].
        gamma: γ ≥ 0, how fast the weight fades.
        is_detached: whether e^{γ m_l} is a constant. As the authors of REDI wrote it, it is not: the push then turns
            into a pull below m_l = −1/γ.

    References:
        The authors' code of arXiv 2505.24850, option `use_neg_weighting`; the paper does not describe it.
    """
    check_pairs(chosen, rejected)
    fade = (gamma * rejected.mean_logps).exp()
    return -chosen.mean_logps + alpha * rejected.mean_logps * (fade.detach() if is_detached else fade)


def gated_redi_loss(
    chosen: SequenceLogps, rejected: SequenceLogps, *, alpha: float, kappa: float, tau: float
) -> Tensor:
    """(n,) −m_w + α · gate · m_l with the gate σ(κ(e^{m_l} − τ)), a constant in the gradient.

    Args:
        chosen: n correct completions.
        rejected: n incorrect completions.
        alpha: weight of the negative term where the gate is open, in [0, 1].
        kappa: steepness κ > 0 of the gate; κ → 0 is REDI with α/2.
        tau: geometric mean token probability in [0, 1] at which the gate is half open.

    References:
        The gate of Gate-DPO, arXiv 2605.02626, on REDI's negative term.
    """
    check_pairs(chosen, rejected)
    gate = torch.sigmoid(kappa * (rejected.mean_logps.exp() - tau)).detach()
    return -chosen.mean_logps + alpha * gate * rejected.mean_logps


def hinge_loss(chosen: SequenceLogps, rejected: SequenceLogps, *, alpha: float, delta: float) -> Tensor:
    """(n,) −m_w + α [δ + m_l]₊: a rejected trace is let go once a token of it has less than e^{−δ} on average.

    Args:
        chosen: n correct completions.
        rejected: n incorrect completions.
        alpha: weight of the negative term, in [0, 1].
        delta: δ > 0 in nats per token; δ → ∞ is REDI, but for a constant.

    References:
        The negative term of QCRD's loss.
    """
    check_pairs(chosen, rejected)
    return -chosen.mean_logps + alpha * F.relu(delta + rejected.mean_logps)


def topr_loss(chosen: SequenceLogps, rejected: SequenceLogps, *, alpha: float) -> Tensor:
    """(n,) −m_w + α · min(π/μ, 1) · m_l with the ratio of whole sequences, a constant in the gradient.

    Args:
        chosen: n correct completions.
        rejected: n incorrect completions, with the sampler μ as reference.
        alpha: weight of the negative term while the policy still finds the trace as likely as its sampler, in [0, 1].

    References:
        Le Roux et al., Tapered Off-Policy REINFORCE, arXiv 2503.14286, with both terms length-normalised.
    """
    check_pairs(chosen, rejected)
    ratio = rejected.log_ratios.clamp(max=0.0).exp().detach()
    return -chosen.mean_logps + alpha * ratio * rejected.mean_logps


def npo_loss(chosen: SequenceLogps, rejected: SequenceLogps, *, alpha: float, beta: float) -> Tensor:
    """(n,) −m_w + (α/|y_l|)(2/β) log(1 + e^{βΔ_l}): REDI whose negative weight is α · 2σ(βΔ_l).

    At policy = reference its gradient is REDI's, and so it is everywhere for β → 0.

    Args:
        chosen: n correct completions.
        rejected: n incorrect completions.
        alpha: weight of the negative term, in [0, 1].
        beta: β > 0, how fast the weight fades with the log-ratio.

    References:
        Zhang et al., Negative Preference Optimization, arXiv 2404.05868, beside likelihood on the chosen.
    """
    check_pairs(chosen, rejected)
    fading = (2.0 / beta) * F.softplus(beta * rejected.log_ratios)
    return -chosen.mean_logps + alpha * fading / rejected.lengths


def nca_loss(chosen: SequenceLogps, rejected: SequenceLogps, *, beta: float) -> Tensor:
    """(n,) −log σ(βΔ_w) − ½ log σ(−βΔ_w) − ½ log σ(−βΔ_l); 2 log 2 at policy = reference.

    Args:
        chosen: n correct completions.
        rejected: n incorrect completions.
        beta: scale β > 0 of the log-ratios.

    References:
        Chen et al., Noise Contrastive Alignment, arXiv 2402.05369, its pairwise form.
    """
    check_pairs(chosen, rejected)
    up, down = beta * chosen.log_ratios, beta * rejected.log_ratios
    return F.softplus(-up) + 0.5 * F.softplus(up) + 0.5 * F.softplus(down)
