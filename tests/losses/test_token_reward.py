"""The token reward model's loss and its ω: by hand, against plain loops in double precision, and where they end."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from redi_lab.losses.sequences import SequenceLogps
from redi_lab.losses.token_reward import omega, token_reward_loss

SCORES = torch.tensor([1.0, -2.0, 4.0, -7.0, 0.5, 3.0], dtype=torch.float64)


def scores(sums: list[float], lengths: list[int]) -> SequenceLogps:
    return SequenceLogps(torch.tensor(sums, dtype=torch.float64, requires_grad=True), torch.tensor(lengths))


def test_the_loss_by_hand() -> None:
    """Means 1 (right) and −2 (wrong) are on their sides, 1 (wrong) is not: log(1 + e^−1), log(1 + e^−2), log(1 + e)."""
    found = token_reward_loss(scores([4.0, -4.0, 3.0], [4, 2, 3]), torch.tensor([True, False, False]))
    assert found.tolist() == pytest.approx([math.log1p(math.exp(x)) for x in (-1, -2, 1)], rel=1e-12)


def test_without_scores_it_is_log_two_and_pulls_by_half_over_the_length() -> None:
    given = scores([0.0, 0.0], [4, 5])
    loss = token_reward_loss(given, torch.tensor([True, False]))
    assert loss.tolist() == pytest.approx([math.log(2)] * 2, rel=1e-12)
    (gradient,) = torch.autograd.grad(loss.sum(), given.logps)
    assert gradient.tolist() == pytest.approx([-0.5 / 4, 0.5 / 5], rel=1e-12)


def test_the_gradient_is_that_of_finite_differences() -> None:
    is_right = torch.tensor([True, False, True])

    def loss(sums: Tensor) -> Tensor:
        return token_reward_loss(SequenceLogps(sums, torch.tensor([3, 7, 1])), is_right)

    assert torch.autograd.gradcheck(loss, scores([2.0, 5.0, -30.0], [3, 7, 1]).logps)


def test_a_trace_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="scores: sequence 1 has 0 completion tokens"):
        token_reward_loss(scores([1.0, 0.0], [2, 0]), torch.tensor([True, False]))


@pytest.mark.parametrize("is_right", [True, False])
def test_omega_as_the_formula_stands(is_right: bool) -> None:
    """c_t = mean(s_1 … s_t), p = σ(c); ω⁺ = clip((p − .5)/.5, 0, 1), ω⁻ = clip(((1 − p) − .5)/.5, 0, 1)."""
    expected, total = [], 0.0
    for count, score in enumerate(SCORES.tolist(), start=1):
        total += score
        p = 1 / (1 + math.exp(-total / count))
        expected.append(min(max(((p if is_right else 1 - p) - 0.5) / 0.5, 0.0), 1.0))
    found = omega(SCORES, is_right=is_right)
    assert found.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert 0 < sum(value > 0 for value in expected) < len(expected)


def test_a_token_speaks_for_one_side_alone() -> None:
    both = torch.stack([omega(SCORES, is_right=side) for side in (True, False)])
    assert bool((both.min(dim=0).values == 0).all())
    assert omega(torch.full((3,), 800.0), is_right=True).tolist() == [1.0] * 3
    assert omega(torch.zeros(3), is_right=False).tolist() == [0.0] * 3


def test_the_largest_share_by_hand() -> None:
    """Means 1, −.5, 1, −1, −.7, −1/12; of the wrong trace's six tokens the half with the largest 1 − p is 2, 4, 5."""
    p = [1 / (1 + math.exp(-x)) for x in (0.5, 1.0, 0.7)]
    found = omega(SCORES, is_right=False, top_share=0.5)
    expected = [0, 0, 0, 1, (p[2] - p[0]) / (p[1] - p[0]), 0]
    assert found.tolist() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert omega(SCORES, is_right=False, top_share=0.01).tolist() == [0, 0, 0, 1, 0, 0]  # at least one
    assert omega(torch.ones(4), is_right=True, top_share=0.5).sum() == 2  # all alike: the first count as 1
