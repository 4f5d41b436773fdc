"""REDI, Eq. 5, and its symmetric case, Eq. 4. What it shares with its siblings is tested in test_objectives.py."""

from __future__ import annotations

import pytest
import torch

from redi_lab.losses.logps import token_logps, weighted_logp_sum
from redi_lab.losses.redi import redi_loss
from redi_lab.losses.sequences import SequenceLogps, sum_by_sequence
from redi_lab.losses.sft import sft_loss
from redi_lab.losses.vocabulary import Head

CHOSEN = SequenceLogps(torch.tensor([-6.0, -1.0], dtype=torch.float64), torch.tensor([4, 2]))
REJECTED = SequenceLogps(torch.tensor([-10.0, -9.0], dtype=torch.float64), torch.tensor([5, 3]))


def test_hand_worked_example() -> None:
    """Mean log-probs −6/4 = −1.5 and −1/2 = −0.5 chosen, −10/5 = −2 and −9/3 = −3 rejected.

    With α = 0.8: 1.5 − 0.8·2 = −0.1 and 0.5 − 0.8·3 = −1.9.
    """
    assert redi_loss(CHOSEN, REJECTED, alpha=0.8).tolist() == pytest.approx([-0.1, -1.9], rel=1e-12)


def test_alpha_zero_is_length_normalised_sft() -> None:
    losses = redi_loss(CHOSEN, REJECTED, alpha=0.0)
    torch.testing.assert_close(losses, sft_loss(CHOSEN) / CHOSEN.lengths, rtol=0.0, atol=0.0)


def test_alpha_one_is_the_symmetric_loss() -> None:
    losses = redi_loss(CHOSEN, REJECTED, alpha=1.0)
    torch.testing.assert_close(losses, REJECTED.mean_logps - CHOSEN.mean_logps, rtol=0.0, atol=0.0)  # Eq. 4
    torch.testing.assert_close(losses, -redi_loss(REJECTED, CHOSEN, alpha=1.0), rtol=0.0, atol=0.0)


def test_is_linear_in_alpha() -> None:
    at_zero, at_half, at_one = (redi_loss(CHOSEN, REJECTED, alpha=alpha) for alpha in (0.0, 0.5, 1.0))
    torch.testing.assert_close(at_half, (at_zero + at_one) / 2)


def test_identical_completions_leave_one_minus_alpha_of_the_loss() -> None:
    losses = redi_loss(CHOSEN, CHOSEN, alpha=0.75)
    torch.testing.assert_close(losses, 0.25 * redi_loss(CHOSEN, REJECTED, alpha=0.0))


def test_token_weights_known_beforehand_give_the_same_loss_and_gradients() -> None:
    """Chosen tokens weigh −1/|y_w|, rejected ones α/|y_l|, whatever order they are packed in."""
    alpha = 0.8
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(12, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    head = torch.randn(6, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(6, (12,), generator=generator)
    sequence = torch.tensor([0, 2, 1, 1, 3, 3, 2, 2, 0, 0, 3, 3])  # 0 and 1 chosen, 2 and 3 their rejected
    lengths = torch.bincount(sequence)

    logps = sum_by_sequence(token_logps(hidden, Head(head), targets).logps, sequence, 4)
    pairwise = redi_loss(
        SequenceLogps(logps[:2], lengths[:2]), SequenceLogps(logps[2:], lengths[2:]), alpha=alpha
    ).sum()

    sign = torch.tensor([-1.0, -1.0, alpha, alpha], dtype=torch.float64)
    linear = weighted_logp_sum(hidden, Head(head, chunk_size=5), targets, (sign / lengths)[sequence]).total

    torch.testing.assert_close(linear, pairwise)
    gradients = (torch.autograd.grad(loss, (hidden, head)) for loss in (linear, pairwise))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs)
