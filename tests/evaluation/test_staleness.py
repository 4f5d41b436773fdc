"""Divergence of a policy from its sampler, and effective sample size."""

from __future__ import annotations

import numpy as np
import pytest

from redi_lab.evaluation.staleness import staleness


def test_two_traces_by_hand() -> None:
    """Gaps 1 and −ln 3 + 1: weights e⁻¹ and 3e⁻¹, so (1 + 3)²/(1 + 9) = 1.6 traces of two."""
    found = staleness([-3.0, -5.0], [-4.0, -6.0 + np.log(3)], [10, 30], ["a", "b"])
    assert found["kl"] == pytest.approx(1 - np.log(3) / 2)
    assert found["kl_per_token"] == pytest.approx((2 - np.log(3)) / 40)
    assert found["ess_share"] == pytest.approx(0.8)
    assert found["kl_sem"] == pytest.approx(np.log(3) / 2 / np.sqrt(2))


def test_a_policy_that_is_its_sampler_is_fresh() -> None:
    found = staleness([-3.0, -400.0], [-3.0, -400.0], [10, 30], ["a", "a"])
    assert found["kl"] == found["kl_sem"] == 0.0
    assert found["ess_share"] == pytest.approx(1.0)


def test_traces_of_one_problem_are_not_independent() -> None:
    """Four equal traces a problem say no more than one."""
    alone = staleness([0.0, 0.0], [-1.0, -3.0], [1, 1], ["a", "b"])
    repeated = staleness([0.0] * 8, [-1.0] * 4 + [-3.0] * 4, [1] * 8, ["a"] * 4 + ["b"] * 4)
    assert repeated["kl_sem"] == pytest.approx(alone["kl_sem"])


def test_estimates_are_those_of_known_distributions() -> None:
    rng = np.random.default_rng(0)
    mu, pi = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    drawn = rng.choice(3, size=20_000, p=mu)
    found = staleness(
        np.log(mu)[drawn].tolist(), np.log(pi)[drawn].tolist(), [1] * 20_000, list(map(str, range(20_000)))
    )
    assert abs(found["kl"] - (mu * np.log(mu / pi)).sum()) < 4 * found["kl_sem"]
    assert found["ess_share"] == pytest.approx(1 / (pi**2 / mu).sum(), rel=0.05)
