"""SFT, Eq. 1. What it shares with its siblings is tested in test_objectives.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from redi_lab.losses.logps import token_logps
from redi_lab.losses.sequences import SequenceLogps, sum_by_sequence
from redi_lab.losses.sft import sft_loss
from redi_lab.losses.vocabulary import Head


def test_hand_worked_example() -> None:
    """Two completions with token log-probs (−1, −2) and (−0.5): losses 1 + 2 = 3 and 0.5."""
    sequences = SequenceLogps(torch.tensor([-3.0, -0.5]), torch.tensor([2, 1]))
    assert sft_loss(sequences).tolist() == [3.0, 0.5]


def test_token_mean_is_cross_entropy() -> None:
    """Σ loss / Σ |y_w| is what `cross_entropy` with its default mean gives on the same tokens."""
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    head = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    targets = torch.randint(6, (9,), generator=generator)
    index = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 1])
    sequences = SequenceLogps(
        sum_by_sequence(token_logps(hidden, Head(head), targets).logps, index, 2), torch.bincount(index)
    )
    token_mean = sft_loss(sequences).sum() / sequences.lengths.sum()
    torch.testing.assert_close(token_mean, F.cross_entropy(hidden @ head.T, targets))


def test_gradient_is_minus_one_per_sequence() -> None:
    logps = torch.tensor([-3.0, -700.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(sft_loss(SequenceLogps(logps, torch.tensor([2, 5]))).sum(), logps)
    assert gradient.tolist() == [-1.0, -1.0]
