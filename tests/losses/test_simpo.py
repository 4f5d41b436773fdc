"""SimPO, Eq. 3, and its limit, Prop. B.3. What it shares with its siblings is tested in test_objectives.py."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from redi_lab.losses.logps import token_logps
from redi_lab.losses.redi import redi_loss
from redi_lab.losses.sequences import SequenceLogps, sum_by_sequence
from redi_lab.losses.simpo import simpo_loss
from redi_lab.losses.vocabulary import Head


def sequences(logps: list[float], lengths: list[int]) -> SequenceLogps:
    return SequenceLogps(torch.tensor(logps, dtype=torch.float64, requires_grad=True), torch.tensor(lengths))


def test_hand_worked_example() -> None:
    """Pair 1: means −6/4 = −1.5 and −10/5 = −2; β = 2, γ = 1: 2·(−1.5) − 2·(−2) − 1 = 0, loss log 2.

    Pair 2: means −0.5 and −3: −1 + 6 − 1 = 4, loss log(1 + e^−4) = 0.018149…
    """
    losses = simpo_loss(sequences([-6.0, -1.0], [4, 2]), sequences([-10.0, -9.0], [5, 3]), beta=2.0, gamma=1.0)
    assert losses.tolist() == pytest.approx([math.log(2.0), 0.01814992791780978], rel=1e-12)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 5.0])
@pytest.mark.parametrize("beta", [0.1, 10.0])
def test_equal_likelihood_per_token_costs_the_margin(beta: float, gamma: float) -> None:
    """β·0 − γ: loss log(1 + e^γ), even where lengths differ."""
    losses = simpo_loss(sequences([-4.0], [2]), sequences([-14.0], [7]), beta=beta, gamma=gamma)
    assert losses.item() == pytest.approx(math.log1p(math.exp(gamma)), rel=1e-12)


def test_gradients_are_length_normalised() -> None:
    """∂L/∂log π(y_w) = −β σ(γ − βR) / |y_w| and ∂L/∂log π(y_l) = β σ(γ − βR) / |y_l|."""
    chosen, rejected = sequences([-6.0], [4]), sequences([-10.0], [5])
    loss = simpo_loss(chosen, rejected, beta=2.0, gamma=1.5).sum()
    weight = 2.0 / (1.0 + math.exp(-(1.5 - 2.0 * 0.5)))
    gradients = torch.autograd.grad(loss, (chosen.logps, rejected.logps))
    assert [gradient.item() for gradient in gradients] == pytest.approx([-weight / 4, weight / 5], rel=1e-12)


class TinyLM(nn.Module):
    """Embedding, tanh, linear head: a real language model with a context of one token, in fp64."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(11)
        self.embedding = nn.Parameter(torch.randn(9, 4, generator=generator, dtype=torch.float64))
        self.head = nn.Parameter(torch.randn(9, 4, generator=generator, dtype=torch.float64))

    def score(self, tokens: list[int]) -> SequenceLogps:
        """Log-probabilities of a sequence's tokens after the first, which is the prompt."""
        ids = torch.tensor(tokens)
        logps = token_logps(torch.tanh(self.embedding[ids[:-1]]), Head(self.head, chunk_size=3), ids[1:]).logps
        lengths = torch.tensor([len(tokens) - 1])
        return SequenceLogps(sum_by_sequence(logps, torch.zeros_like(ids[1:]), 1), lengths)


def step(loss: Callable[[SequenceLogps, SequenceLogps], Tensor], lr: float) -> tuple[Tensor, float]:
    """The parameter change of one SGD step on one pair, flattened, and R = mean logp chosen − rejected before it."""
    model = TinyLM()
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    chosen, rejected = model.score([0, 3, 5, 1, 8]), model.score([0, 3, 2, 7, 7, 4, 8])
    loss(chosen, rejected).mean().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    after = nn.utils.parameters_to_vector(model.parameters()).detach()
    return after - before, (chosen.mean_logps - rejected.mean_logps).item()


@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
def test_small_beta_limit_is_symmetric_redi(gamma: float) -> None:
    """Prop. B.3: with learning rate c/β and β → 0, a SimPO step tends to a symmetric REDI step of rate c·σ(γ).

    Let R = mean logp chosen − rejected. SimPO is −log σ(βR − γ), and (−log σ)'(z) = −σ(−z), so its gradient is
    −β σ(γ − βR) ∇R and a step of rate c/β moves the parameters by c σ(γ − βR) ∇R. Symmetric REDI is −R: a step of
    rate c σ(γ) moves them by c σ(γ) ∇R. The two differ by c |σ(γ − βR) − σ(γ)| |∇R|. As σ' ≤ 1/4, that is at most
    c · β|R|/4 · |∇R| ≤ c · c0 · |∇R| · β/4 with |R| ≤ c0, and to first order it is c σ'(γ) |R| |∇R| β: linear in β,
    with the bound's slope reached at γ = 0 only.
    """
    c, betas = 0.3, [0.4, 0.1, 0.025, 0.00625]
    sigmoid = 1.0 / (1.0 + math.exp(-gamma))
    redi_step, difference = step(partial(redi_loss, alpha=1.0), lr=c * sigmoid)
    gradient_norm = redi_step.norm().item() / (c * sigmoid)
    slope = c * sigmoid * (1.0 - sigmoid) * abs(difference) * gradient_norm
    assert slope > 1e-3  # else the limit below would hold for want of anything to measure

    deviations = []
    for beta in betas:
        simpo_step, _ = step(partial(simpo_loss, beta=beta, gamma=gamma), lr=c / beta)
        error = (simpo_step - redi_step).norm().item()
        assert error <= c * abs(difference) * gradient_norm * beta / 4
        deviations.append(abs(error / beta / slope - 1.0))
    # error/β tends to the slope, itself linearly in β (quadratically at γ = 0, where σ'' vanishes).
    assert deviations == sorted(deviations, reverse=True)
    assert deviations[-1] < 0.005
