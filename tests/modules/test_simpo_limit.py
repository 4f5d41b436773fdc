"""Prop. B.3 through the real modules: SimPO of small β, with its rate scaled as c/β, steps as symmetric REDI does."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import SGD

from tests.modules.tiny_runs import (
    HARMLESS_WARNINGS,
    NaiveTwin,
    batches_of,
    fit,
    flat,
    make_backbone,
    make_data,
    make_module,
)

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]
C = 0.3


def step(objective: str, rate: float, batch_size: int, **options: Any) -> Tensor:
    """How the first SGD step moves the parameters, in fp64."""
    backbone = make_backbone(dtype="float64")
    before = flat(list(backbone.parameters()))
    module = make_module(objective, backbone, optimizer=partial(SGD, lr=rate), **options)
    result = fit(module, make_data(objective, batch_size=batch_size, budget=0), precision="64-true")
    return result.tap.parameters[0] - before


@pytest.mark.parametrize(("gamma", "batch_size"), [(1.0, 1), (0.0, 6)])
def test_small_beta_steps_as_symmetric_redi(gamma: float, batch_size: int) -> None:
    """With R the margin of mean log-probs of a pair, |σ(γ − βR) − σ(γ)| ≤ β|R|/4 bounds the difference pair by pair.

    The bound of the whole step is the mean over pairs of c · |R| · ‖∇R‖ · β/4.
    """
    twin = NaiveTwin(make_backbone(dtype="float64"))
    per_pair = []
    for chosen, rejected in batches_of(make_data("simpo", batch_size=batch_size))[0]:
        margin = twin.mean_logp(chosen) - twin.mean_logp(rejected)
        per_pair.append(abs(margin.item()) * twin.gradient(margin).norm().item())
    slope = C * sum(per_pair) / len(per_pair) / 4

    redi_step = step("redi", C / (1.0 + math.exp(-gamma)), batch_size, alpha=1.0)
    assert redi_step.dtype == torch.float64
    betas = [0.1, 0.01, 0.001]
    errors = [(step("simpo", C / beta, batch_size, beta=beta, gamma=gamma) - redi_step).norm().item() for beta in betas]
    assert slope > 0.01 * redi_step.norm().item()  # else there would be nothing to bound
    assert all(error <= slope * beta for error, beta in zip(errors, betas, strict=True))
    # And the error is linear in β (where all is exact to rounding), not merely small.
    assert errors[1] / errors[2] == pytest.approx(10.0, rel=0.05)
