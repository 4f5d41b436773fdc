"""DPO, Eq. 2. What it shares with its siblings is tested in test_objectives.py."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from redi_lab.losses.dpo import dpo_loss, dpo_rewards
from redi_lab.losses.sequences import SequenceLogps

LENGTHS = torch.tensor([3, 5])


def sequences(*logps: float) -> SequenceLogps:
    return SequenceLogps(torch.tensor(logps, dtype=torch.float64, requires_grad=True), LENGTHS)


def loss(chosen: SequenceLogps, rejected: SequenceLogps, references: tuple[Tensor, Tensor], beta: float) -> Tensor:
    return dpo_loss(chosen._replace(reference=references[0]), rejected._replace(reference=references[1]), beta=beta)


def rewards(sequences: SequenceLogps, reference: Tensor, beta: float) -> Tensor:
    return dpo_rewards(sequences._replace(reference=reference), beta=beta)


def test_hand_worked_example() -> None:
    """Pair 1: log-ratios −2 − (−3) = 1 and −8 − (−6) = −2; β = 0.5: rewards 0.5 and −1, margin 1.5.

    Loss −log σ(1.5) = log(1 + e^−1.5) = 0.201413… Pair 2: log-ratios −1 and 1, margin −1, loss log(1 + e) = 1.313262…
    """
    references = (torch.tensor([-3.0, -4.0]), torch.tensor([-6.0, -7.0]))
    losses = loss(sequences(-2.0, -5.0), sequences(-8.0, -6.0), references, beta=0.5)
    assert losses.tolist() == pytest.approx([0.20141327798275, 1.31326168751822], rel=1e-12)


def test_rewards_are_scaled_log_ratios() -> None:
    """β (log π − log π_ref) = 0.1 · (−2 + 3) and 0.1 · (−5 + 4)."""
    found = rewards(sequences(-2.0, -5.0), torch.tensor([-3.0, -4.0]), beta=0.1)
    assert found.tolist() == pytest.approx([0.1, -0.1], rel=1e-12)


@pytest.mark.parametrize("beta", [0.001, 0.1, 10.0])
def test_policy_equal_to_reference_is_log_two(beta: float) -> None:
    chosen, rejected = sequences(-2.0, -5000.0), sequences(-8.0, -6.0)
    losses = loss(chosen, rejected, (chosen.logps.detach(), rejected.logps.detach()), beta)
    assert losses.tolist() == pytest.approx([math.log(2.0)] * 2, rel=1e-12)


@pytest.mark.parametrize("beta", [0.01, 0.5])
def test_gradients_are_opposite_and_weighted_by_how_wrong_the_rewards_are(beta: float) -> None:
    """∂L/∂log π(y_w) = −β σ(r_l − r_w) = −∂L/∂log π(y_l), whatever the lengths."""
    chosen, rejected = sequences(-2.0, -5.0), sequences(-8.0, -6.0)
    references = (torch.tensor([-3.0, -4.0]), torch.tensor([-6.0, -7.0]))
    gradients = torch.autograd.grad(loss(chosen, rejected, references, beta).sum(), (chosen.logps, rejected.logps))
    wrongness = torch.sigmoid(rewards(rejected, references[1], beta) - rewards(chosen, references[0], beta)).detach()
    torch.testing.assert_close(gradients[0], -beta * wrongness)
    torch.testing.assert_close(gradients[1], beta * wrongness)


def test_ignores_lengths() -> None:
    references = (torch.zeros(2), torch.zeros(2))
    chosen, rejected = sequences(-2.0, -5.0), sequences(-8.0, -6.0)
    longer = chosen._replace(lengths=LENGTHS * 10)
    assert torch.equal(loss(chosen, rejected, references, 0.1), loss(longer, rejected, references, 0.1))


@pytest.mark.parametrize("side", [0, 1])
def test_refuses_references_of_another_shape(side: int) -> None:
    references = [torch.zeros(2), torch.zeros(2)]
    references[side] = torch.zeros(3)
    with pytest.raises(ValueError, match=r"\(2,\), \(2,\), \(3,\)"):
        loss(sequences(-2.0, -5.0), sequences(-8.0, -6.0), (references[0], references[1]), beta=0.1)
