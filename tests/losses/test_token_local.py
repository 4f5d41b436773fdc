"""Unlikelihood, LUFFY's shaping and TOPR by token: functions of a token, their slopes, and the losses made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from redi_lab.losses.redi import redi_loss
from redi_lab.losses.sequences import SequenceLogps
from redi_lab.losses.token_local import fading_redi_loss, luffy_loss, shaped_probability, tapered, unlikelihood

PROBABILITIES = [0.9, 0.5, 0.1, 1e-6]
SAMPLER = torch.tensor([0.5, 0.5, 0.2, 1e-4], dtype=torch.float64).log()
Twin = Callable[[float, float], float]
TERMS: dict[str, tuple[Callable[[Tensor], Tensor], Twin, Twin]] = {
    "unlikelihood": (unlikelihood, lambda p, _: -math.log(1 - p), lambda p, _: p / (1 - p)),
    "luffy": (
        partial(shaped_probability, gamma=0.1),
        lambda p, _: p / (p + 0.1),
        lambda p, _: 0.1 * p / (p + 0.1) ** 2,
    ),
    "token_topr": (
        partial(tapered, sampler=SAMPLER),
        lambda p, q: min(p / q, 1.0) * math.log(p),
        lambda p, q: min(p / q, 1.0),
    ),
}


@pytest.mark.parametrize("name", TERMS)
def test_value_and_slope(name: str) -> None:
    term, value, slope = TERMS[name]
    logps = torch.tensor(PROBABILITIES, dtype=torch.float64).log().requires_grad_()
    found = term(logps)
    both = list(zip(PROBABILITIES, SAMPLER.exp().tolist(), strict=True))
    assert found.tolist() == pytest.approx([value(p, q) for p, q in both], rel=1e-9)
    (slopes,) = torch.autograd.grad(found.sum(), logps)
    assert slopes.tolist() == pytest.approx([slope(p, q) for p, q in both], rel=1e-9)


@pytest.mark.parametrize("name", TERMS)
def test_certain_and_impossible_tokens_have_finite_slopes(name: str) -> None:
    logps = torch.tensor([0.0, -1e-9, -1e4, -1e30], requires_grad=True)
    found = TERMS[name][0](logps)
    (slopes,) = torch.autograd.grad(found.sum(), logps)
    assert found.isfinite().all()
    assert slopes.isfinite().all()
    assert slopes[2:].tolist() == [0.0, 0.0]  # nothing pushes a token that is gone


CHOSEN = SequenceLogps(torch.tensor([-6.0, -1.0]), torch.tensor([4, 2]), token_terms=torch.tensor([2.0, 1.0]))
REJECTED = SequenceLogps(torch.tensor([-10.0, -9.0]), torch.tensor([5, 3]), token_terms=torch.tensor([1.0, 6.0]))


def test_losses_by_hand() -> None:
    assert fading_redi_loss(CHOSEN, REJECTED, alpha=0.5).tolist() == pytest.approx([1.5 + 0.1, 0.5 + 1.0])
    assert luffy_loss(CHOSEN, REJECTED, alpha=0.5).tolist() == pytest.approx([-0.5 + 0.1, -0.5 + 1.0])
    with pytest.raises(ValueError, match="single tokens"):
        fading_redi_loss(CHOSEN, REJECTED._replace(token_terms=None), alpha=0.5)


def test_topr_by_token_is_redi_where_no_token_is_below_its_sampler() -> None:
    """min(π/μ, 1) = 1 then, so φ is ℓ."""
    logps = torch.tensor([-1.0, -2.0])
    terms = tapered(logps, logps - 0.5).sum()[None]
    one = SequenceLogps(logps.sum()[None], torch.tensor([2]), token_terms=terms)
    torch.testing.assert_close(fading_redi_loss(one, one, alpha=0.5), redi_loss(one, one, alpha=0.5))
