"""The weight of the negative term over a training."""

from __future__ import annotations

import math

import pytest

from redi_lab.config.compose import load_config
from redi_lab.errors import UserError
from redi_lab.losses.alpha_schedule import strength
from tests.modules.tiny_runs import HARMLESS_WARNINGS, fit, make_backbone, make_data, make_module, relative_error

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]


def test_shapes() -> None:
    """Of 20 steps, after none, two, half and 19."""
    progress = (0.0, 0.1, 0.5, 0.95)
    assert [strength("constant", p) for p in progress] == [1.0] * 4
    assert [strength("linear", p) for p in progress] == pytest.approx([1.0, 0.9, 0.5, 0.05])
    expected = [1.0, 0.5 * (1 + math.cos(0.1 * math.pi)), 0.5, 0.5 * (1 + math.cos(0.95 * math.pi))]
    assert [strength("cosine", p) for p in progress] == pytest.approx(expected)
    assert [strength("warmup", p) for p in (0.0, 0.05, 0.1, 0.5)] == pytest.approx([0.0, 0.5, 1.0, 1.0])


def test_each_step_has_the_gradient_of_its_alpha() -> None:
    """With no learning, two steps of one schedule are two steps at the two α of two constant ones."""
    scheduled = fit(
        make_module("redi", make_backbone(), alpha=0.8, alpha_schedule="linear", optimizer=no_descent),
        make_data("redi"),
        max_steps=2,
    )
    for step, alpha in enumerate((0.8, 0.4)):
        module = make_module("redi", make_backbone(), alpha=alpha, optimizer=no_descent)
        constant = fit(module, make_data("redi"), max_steps=2)
        assert relative_error(scheduled.tap.gradients[step], constant.tap.gradients[step]) < 1e-6


def no_descent(parameters: object) -> object:
    from torch.optim import SGD

    return SGD(parameters, lr=0.0)  # type: ignore[arg-type]


def test_an_objective_without_a_negative_weight_has_no_schedule() -> None:
    with pytest.raises(UserError, match=r"loss\.alpha_schedule"):
        load_config("train", ["loss=simpo", "+loss.alpha_schedule=linear"])
