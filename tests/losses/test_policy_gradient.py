"""PSR, NSR, W-REINFORCE, AsymRE, OREAL, A*-PO: by hand, and what they share with SFT and unpaired REDI."""

from __future__ import annotations

import math

import pytest
import torch

from redi_lab.losses.a_star_po import a_star_po_loss
from redi_lab.losses.policy_gradient import asymre_loss, oreal_loss, w_reinforce_loss
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


def test_a_negative_weight_below_zero_imitates() -> None:
    """NAT's: SFT on right and wrong traces alike."""
    both = float(sft_loss(CHOSEN).sum() + sft_loss(REJECTED).sum())
    assert w_reinforce(1.0, -1.0) * 18 == pytest.approx(both, rel=1e-12)


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


RATED = (
    CHOSEN._replace(pass_rates=torch.tensor([0.25, 0.5, 0.5], dtype=torch.float64)),
    REJECTED._replace(pass_rates=torch.tensor([0.25, 0.5], dtype=torch.float64)),
)


def test_asymre_with_a_baseline_for_each_problem() -> None:
    """V = p − 0.1: (0.15 · −2 + 0.4 · −3 − (0.85 · −1.5 + 0.6 · −0.5 + 0.6 · −1)) / 5."""
    ours = asymre_loss(*RATED, baseline=-0.1, is_relative=True, num_sequences=5)
    assert float(ours) == pytest.approx((-0.3 - 1.2 + 1.275 + 0.3 + 0.6) / 5, rel=1e-12)
    halved = asymre_loss(*RATED, baseline=-0.1, is_relative=True, num_sequences=5, strength=0.5)
    up = 0.925 * 1.5 + 0.8 * 0.5 + 0.8 * 1.0
    assert float(halved) == pytest.approx((-0.75 + up) / 5, rel=1e-12)
    with pytest.raises(ValueError, match="pass rates"):
        asymre_loss(CHOSEN, REJECTED, baseline=-0.1, is_relative=True, num_sequences=5)


def test_oreal_by_hand() -> None:
    """Advantages 1.5, 1, 1 over 10 tokens and −0.5, −1 over 8."""
    ours = oreal_loss(*RATED, negative_weight=0.5, num_chosen_tokens=10, num_rejected_tokens=8)
    assert float(ours) == pytest.approx((9 + 1 + 4) / 10 - 0.5 * (5 + 9) / 8, rel=1e-12)


def test_oreal_with_equal_rates_is_w_reinforce_but_for_the_divisors() -> None:
    """With every rate ½ advantages are ±1: η = 1 weighs each side by its own tokens, W-REINFORCE by all."""
    half = [side._replace(pass_rates=torch.full_like(side.logps, 0.5)) for side in (CHOSEN, REJECTED)]
    ours = oreal_loss(*half, negative_weight=1.0, num_chosen_tokens=18, num_rejected_tokens=18)
    assert float(ours) == w_reinforce(1.0, 1.0)


def test_a_star_po_by_hand() -> None:
    """V* = ½ log(p e² + 1 − p); no rate overflows, and at its target a trace has no slope."""
    rates = [0.25, 0.5, 1.0, 0.0]
    values = [0.5 * math.log(p * math.e**2 + 1 - p) for p in rates]
    logps = torch.tensor([-6.0, -5.0, -4.0, -3.0], dtype=torch.float64, requires_grad=True)
    rewards = torch.tensor([1.0, 0.0, 1.0, 0.0], dtype=torch.float64)
    reference = torch.tensor([-7.0, -5.0, -4.0, -2.0], dtype=torch.float64)
    sequences = SequenceLogps(logps, torch.ones(4), reference, pass_rates=torch.tensor(rates, dtype=torch.float64))
    losses = a_star_po_loss(sequences, rewards, beta=0.1, value_beta=0.5)
    ratios = [1.0, 0.0, 0.0, -1.0]
    expected = [(0.1 * d - (r - v)) ** 2 for d, r, v in zip(ratios, rewards.tolist(), values, strict=True)]
    assert losses.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert torch.autograd.grad(losses.sum(), logps)[0][2] == 0.0  # all right: V* = 1 = r
    tiny = a_star_po_loss(sequences, rewards, beta=0.1, value_beta=1e-3)
    assert tiny.isfinite().all()


def test_row_weights_are_factors() -> None:
    weighted = [side._replace(weights=torch.arange(1.0, 1 + len(side.logps))) for side in RATED]
    ours = w_reinforce_loss(*weighted, positive_weight=0.1, negative_weight=1.0, num_tokens=18)
    assert float(ours) == pytest.approx((-10 - 2 * 9 + 0.1 * (6 + 2 * 1 + 3 * 4)) / 18, rel=1e-12)
    redi = unpaired_redi_loss(*weighted, alpha=0.5, num_chosen=3, num_rejected=2)
    assert float(redi) == pytest.approx((1.5 + 2 * 0.5 + 3 * 1) / 3 + 0.5 * (-2 - 2 * 3) / 2, rel=1e-12)
