"""The objectives of `separable` and `dpo_variants`: their equations, weights, and the identities between them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from redi_lab.losses.dpo import dpo_loss
from redi_lab.losses.redi import redi_loss
from redi_lab.losses.sequences import SequenceLogps
from tests.modules.pair_forms import COUPLED, SEPARABLE

CHOSEN = SequenceLogps(
    torch.tensor([-6.0, -1.0], dtype=torch.float64),
    torch.tensor([4, 2]),
    torch.tensor([-7.0, -0.5], dtype=torch.float64),
)
REJECTED = SequenceLogps(
    torch.tensor([-10.0, -9.0], dtype=torch.float64),
    torch.tensor([5, 3]),
    torch.tensor([-8.0, -9.5], dtype=torch.float64),
)
# Mean log-probs: chosen −1.5 and −0.5, rejected −2 and −3. Log-ratios: chosen 1 and −0.5, rejected −2 and 0.5.

SETTINGS: dict[str, dict[str, Any]] = {
    "simper": {},
    "bounded_redi": {"alpha": 0.8, "gamma": 0.25, "is_detached": False},
    "gated_redi": {"alpha": 0.8, "kappa": 10.0, "tau": 0.1},
    "hinge": {"alpha": 0.8, "delta": 2.5},
    "topr": {"alpha": 0.8},
    "npo": {"alpha": 0.8, "beta": 0.5},
    "nca": {"beta": 0.5},
    "dpo_shift": {"beta": 0.5, "alpha": 0.6},
    "rpo": {"beta": 0.5, "nll_weight": 0.3},
    "dpop": {"beta": 0.5, "penalty": 5.0},
    "cal_dpo": {"beta": 0.5},
}
FORMS = SEPARABLE | COUPLED


def losses(name: str, chosen: SequenceLogps = CHOSEN, rejected: SequenceLogps = REJECTED, **changes: Any) -> Tensor:
    return FORMS[name].pair_loss(chosen, rejected, **(SETTINGS[name] | changes))


def weights(name: str, **changes: Any) -> tuple[list[float], list[float]]:
    """∂loss/∂m of each chosen and each rejected sequence."""
    chosen, rejected = (side._replace(logps=side.logps.clone().requires_grad_()) for side in (CHOSEN, REJECTED))
    total = losses(name, chosen, rejected, **changes).sum()
    gradients = torch.autograd.grad(total, (chosen.logps, rejected.logps))
    up, down = (gradient * side.lengths for gradient, side in zip(gradients, (chosen, rejected), strict=True))
    return up.tolist(), down.tolist()


def sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x))


def twin(name: str, m_w: float, m_l: float, d_w: float, d_l: float, length_l: int) -> float:
    """The equation as it stands in Python floats, with the settings above."""
    equations: dict[str, Callable[[], float]] = {
        "simper": lambda: -math.exp(m_w) + math.exp(m_l),
        "bounded_redi": lambda: -m_w + 0.8 * m_l * math.exp(0.25 * m_l),
        "gated_redi": lambda: -m_w + 0.8 * sigmoid(10 * (math.exp(m_l) - 0.1)) * m_l,
        "hinge": lambda: -m_w + 0.8 * max(0.0, 2.5 + m_l),
        "topr": lambda: -m_w + 0.8 * min(1.0, math.exp(d_l)) * m_l,
        "npo": lambda: -m_w + 0.8 / length_l * 2 / 0.5 * math.log(1 + math.exp(0.5 * d_l)),
        "nca": lambda: (
            -math.log(sigmoid(0.5 * d_w)) - 0.5 * math.log(sigmoid(-0.5 * d_w)) - 0.5 * math.log(sigmoid(-0.5 * d_l))
        ),
        "dpo_shift": lambda: -math.log(sigmoid(0.5 * (d_w - 0.6 * d_l))),
        "rpo": lambda: -math.log(sigmoid(0.5 * (d_w - d_l))) - 0.3 * m_w,
        "dpop": lambda: -math.log(sigmoid(0.5 * (d_w - d_l - 5.0 * max(0.0, -d_w)))),
        "cal_dpo": lambda: -math.log(sigmoid(d_w - d_l)) + 0.5 * ((d_w - 1.0) ** 2 + (d_l + 1.0) ** 2),
    }
    return equations[name]()


@pytest.mark.parametrize("name", FORMS)
def test_is_its_equation(name: str) -> None:
    expected = [twin(name, -1.5, -2.0, 1.0, -2.0, 5), twin(name, -0.5, -3.0, -0.5, 0.5, 3)]
    assert losses(name).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", FORMS)
def test_extreme_log_probs_give_finite_gradients(name: str) -> None:
    for extreme in (0.0, -1e4):
        rejected = SequenceLogps(torch.full((2,), extreme, requires_grad=True), REJECTED.lengths, REJECTED.reference)
        chosen = SequenceLogps(torch.full((2,), extreme, requires_grad=True), CHOSEN.lengths, CHOSEN.reference)
        total = losses(name, chosen, rejected).sum()
        gradients = torch.autograd.grad(total, (chosen.logps, rejected.logps))
        assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", FORMS)
def test_refuses_sides_that_do_not_pair_up(name: str) -> None:
    one = REJECTED.at(slice(1))
    with pytest.raises(ValueError, match="pair up"):
        losses(name, rejected=one)


def test_separable_forms_do_not_couple_the_sides() -> None:
    """∂²loss/∂S_w∂S_l = 0: the weight of a sequence may be found without its partner."""
    for name in SEPARABLE:
        far = REJECTED._replace(logps=REJECTED.logps - 3.0)
        chosen = CHOSEN._replace(logps=CHOSEN.logps.clone().requires_grad_())
        gradients = [
            torch.autograd.grad(losses(name, chosen, rejected).sum(), chosen.logps)[0] for rejected in (REJECTED, far)
        ]
        torch.testing.assert_close(*gradients, rtol=0.0, atol=0.0)


def test_weights_on_the_rejected_side() -> None:
    """What the tables of the module say, at m_l = −2 and −3, Δ_l = −2 and 0.5."""
    means = (-2.0, -3.0)
    assert weights("simper")[1] == pytest.approx([math.exp(m) for m in means])
    bounded = [0.8 * math.exp(0.25 * m) * (1 + 0.25 * m) for m in means]
    assert weights("bounded_redi")[1] == pytest.approx(bounded)
    assert weights("bounded_redi", is_detached=True)[1] == pytest.approx([0.8 * math.exp(0.25 * m) for m in means])
    assert weights("gated_redi")[1] == pytest.approx([0.8 * sigmoid(10 * (math.exp(m) - 0.1)) for m in means])
    assert weights("hinge")[1] == pytest.approx([0.8, 0.0])
    assert weights("topr")[1] == pytest.approx([0.8 * math.exp(-2.0), 0.8])
    assert weights("npo")[1] == pytest.approx([0.8 * 2 * sigmoid(0.5 * d) for d in (-2.0, 0.5)])
    nca = [0.5 * 0.5 * length * sigmoid(0.5 * d) for d, length in ((-2.0, 5), (0.5, 3))]
    assert weights("nca")[1] == pytest.approx(nca)


def test_bounded_redi_turns_round_below_one_over_gamma() -> None:
    assert [math.copysign(1, w) for w in weights("bounded_redi", gamma=0.4)[1]] == [1.0, -1.0]  # −1/0.4 = −2.5


@pytest.mark.parametrize(
    ("name", "changes"),
    [("bounded_redi", {"gamma": 0.0}), ("npo", {"beta": 1e-9}), ("hinge", {"delta": 1e3})],
)
def test_limits_that_are_redi(name: str, changes: dict[str, Any]) -> None:
    chosen, rejected = (side._replace(logps=side.logps.clone().requires_grad_()) for side in (CHOSEN, REJECTED))
    redi = redi_loss(chosen, rejected, alpha=0.8).sum()
    expected = torch.autograd.grad(redi, (chosen.logps, rejected.logps))
    found = torch.autograd.grad(losses(name, chosen, rejected, **changes).sum(), (chosen.logps, rejected.logps))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0.0)


def test_npo_and_topr_begin_as_redi_where_the_policy_is_the_reference() -> None:
    assert REJECTED.reference is not None
    rejected = REJECTED._replace(logps=REJECTED.reference.clone().requires_grad_())
    (expected,) = torch.autograd.grad(redi_loss(CHOSEN, rejected, alpha=0.8).sum(), rejected.logps)
    for name in ("npo", "topr"):
        (found,) = torch.autograd.grad(losses(name, rejected=rejected).sum(), rejected.logps)
        torch.testing.assert_close(found, expected)


def test_nca_begins_at_two_log_two() -> None:
    at_reference = (SequenceLogps(torch.zeros(2), side.lengths, torch.zeros(2)) for side in (CHOSEN, REJECTED))
    assert losses("nca", *at_reference).tolist() == pytest.approx([2 * math.log(2)] * 2)


@pytest.mark.parametrize(
    ("name", "changes"), [("dpo_shift", {"alpha": 1.0}), ("rpo", {"nll_weight": 0.0}), ("dpop", {"penalty": 0.0})]
)
def test_settings_that_make_them_dpo(name: str, changes: dict[str, Any]) -> None:
    torch.testing.assert_close(losses(name, **changes), dpo_loss(CHOSEN, REJECTED, beta=0.5))


def test_simper_is_symmetric_redi_weighted_by_probabilities() -> None:
    up, down = weights("simper")
    assert up == pytest.approx([-math.exp(-1.5), -math.exp(-0.5)])
    assert down == pytest.approx([math.exp(-2.0), math.exp(-3.0)])


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if form.needs_reference])
def test_a_missing_reference_is_an_error(name: str) -> None:
    sides = (side._replace(reference=None) for side in (CHOSEN, REJECTED))
    with pytest.raises(ValueError, match="reference"):
        losses(name, *sides)
