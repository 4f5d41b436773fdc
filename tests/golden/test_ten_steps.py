"""Ten steps give the pinned losses on any CPU, and the very same bits twice on this one."""

from __future__ import annotations

import json
from functools import cache

import pytest
import torch

from tests.golden.ten_steps import CURVES, OBJECTIVES, PINNED, TenSteps, run
from tests.modules.tiny_runs import HARMLESS_WARNINGS

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]


@cache
def first_run(objective: str) -> TenSteps:
    return run(objective)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_curves_are_the_pinned_ones(objective: str) -> None:
    pinned = json.loads(PINNED.read_text(encoding="utf-8"))[objective]
    curves = first_run(objective).curves
    assert list(pinned) == list(CURVES)
    for name, tolerance in CURVES.items():
        assert len(curves[name]) == 10
        assert curves[name] == pytest.approx(pinned[name], rel=tolerance), (
            f"{name} of {objective} differs from {PINNED.name}: if that is meant, run python -m tests.golden.ten_steps"
        )


@pytest.mark.parametrize("objective", [pytest.param("sft", marks=pytest.mark.slow), "redi"])
def test_two_runs_are_identical_to_the_bit(objective: str) -> None:
    first, second = first_run(objective), run(objective)
    assert first.curves == second.curves
    assert torch.equal(first.weights, second.weights)
