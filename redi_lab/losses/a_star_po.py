"""A*-PO offline: regress each trace's log-ratio on its advantage over the problem's optimal value."""

from __future__ import annotations

import torch
from torch import Tensor

from redi_lab.losses.sequences import SequenceLogps, check_sequences


def a_star_po_loss(sequences: SequenceLogps, rewards: Tensor, *, beta: float, value_beta: float) -> Tensor:
    """(n,) (β₂Δ − (r − V*))², with V* = β₁ log(p e^{1/β₁} + 1 − p) from the problem's share p of correct traces.

    Both sides are bounded: a trace is neither raised nor lowered beyond the log-ratio (r − V*)/β₂. A problem whose
    traces are all right (or wrong) has V* = 1 (or 0), so it is drawn to the reference.

    Args:
        sequences: n completions with their reference and the pass rates of their problems.
        rewards: (n,) r, 1 for correct and 0 for incorrect completions.
        beta: β₂ > 0, scale of the log-ratios.
        value_beta: β₁ > 0, temperature of the value.

    Raises:
        ValueError: shapes differ, a completion has no tokens, or there is no reference or no pass rate.

    References:
        Brantley et al., Accelerating RL for LLM Reasoning with Optimal Advantage Regression, arXiv 2505.20686.
    """
    check_sequences("sequences", sequences)
    rates = sequences.required_pass_rates
    # log(p e^{1/β₁} + 1 − p) without overflow; −inf where p is 0 or 1 drops out.
    value = value_beta * torch.logaddexp(rates.log() + 1.0 / value_beta, torch.log1p(-rates))
    return (beta * sequences.log_ratios - (rewards - value)).square()
