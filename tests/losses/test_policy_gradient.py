"""PSR, NSR, W-REINFORCE and AsymRE: by hand, and what they have in common with SFT and unpaired REDI."""

from __future__ import annotations

import pytest
import torch

from redi_lab.losses.policy_gradient import asymre_loss, w_reinforce_loss
from redi_lab.losses.sequences import SequenceLogps
from redi_lab.losses.sft import sft_loss
from redi_lab.losses.unpaired_redi import unpaired_redi_loss

CHOSEN = SequenceLogps(torch.tensor([-6.0, -1.0, -4.0], dtype=torch.float64), torch.tensor([4, 2, 4]))
REJECTED = SequenceLogps(torch.tensor([-10.0, -9.0], dtype=torch.float64), torch.tensor([5, 3]))
NONE = SequenceLogps(torch.zeros(0, dtype=torch.float64), torch.zeros(0, dtype=torch.int64))


def w_reinforce(positive: float, negative: float, chosen: SequenceLogps = CHOSEN) -> float:
    loss = w_reinforce_loss(chosen, REJECTED, positive_weight=positive, negative_weight=negative, num_tokens=18)
    return float(loss)


def test_w_reinforce_by_hand() -> None:
    """Sums −11 chosen and −19 rejected over 18 tokens: (0.1 · 11 − 19) / 18."""
    assert w_reinforce(0.1, 1.0) == pytest.approx((1.1 - 19) / 18, rel=1e-12)
    assert w_reinforce(0.0, 1.0) == pytest.approx(-19 / 18, rel=1e-12)  # NSR
    assert w_reinforce(0.0, 1.0, chosen=NONE) == w_reinforce(0.0, 1.0)


def test_psr_is_sft_but_for_the_divisor() -> None:
    assert w_reinforce(1.0, 0.0) * 18 == pytest.approx(float(sft_loss(CHOSEN).sum()), rel=1e-12)


@pytest.mark.parametrize("baseline", [0.1, 0.5, 0.6, 0.7])
def test_asymre_is_unpaired_redi_up_to_a_factor(baseline: float) -> None:
    """p = 3/5 of the traces are correct; V = p gives α = 1."""
    p = 0.6
    alpha = (1 - p) * baseline / (p * (1 - baseline))
    assert (alpha <= 1.0) == (baseline <= p)
    ours = asymre_loss(CHOSEN, REJECTED, baseline=baseline, num_sequences=5)
    if alpha <= 1.0:
        redi = unpaired_redi_loss(CHOSEN, REJECTED, alpha=alpha, num_chosen=3, num_rejected=2)
        torch.testing.assert_close(ours, p * (1 - baseline) * redi)


def test_asymre_by_hand() -> None:
    """Means −1.5, −0.5, −1 chosen and −2, −3 rejected; V = 0.25: (0.25 · −5 − 0.75 · −3) / 5."""
    assert float(asymre_loss(CHOSEN, REJECTED, baseline=0.25, num_sequences=5)) == pytest.approx(0.2, rel=1e-12)
    none_right = asymre_loss(NONE, REJECTED, baseline=0.25, num_sequences=5)
    assert float(none_right) == pytest.approx(-0.25, rel=1e-12)
