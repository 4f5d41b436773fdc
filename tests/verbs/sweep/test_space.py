"""Search spaces: what they mean, and what is refused in one line."""

from __future__ import annotations

import math
from typing import Any

import optuna
import pytest

from redi_lab.config.compose import load_config
from redi_lab.errors import UserError
from redi_lab.verbs.sweep.space import as_overrides, check_space, grid, parse_space, sobol, suggest

CONDITIONAL: dict[str, Any] = {
    "loss": ["redi", "dpo", "simpo"],
    "loss.alpha": {"low": 0.0, "high": 1.0, "step": 0.5, "when": {"loss": "redi"}},
    "loss.beta": [
        {"choices": [0.1, 1.0], "when": {"loss": "dpo"}},
        {"low": 2, "high": 4, "type": "int", "when": {"loss": "simpo"}},
    ],
}


def test_a_trial_gets_the_parameters_that_exist_for_it() -> None:
    space = parse_space(CONDITIONAL)
    asked = {"loss": "simpo", "loss.beta (loss=simpo)": 3, "loss.beta (loss=dpo)": 0.1, "loss.alpha (loss=redi)": 0.5}
    assert suggest(space, optuna.trial.FixedTrial(asked)) == {"loss": "simpo", "loss.beta": 3}
    assert suggest(space, optuna.trial.FixedTrial({**asked, "loss": "redi"})) == {"loss": "redi", "loss.alpha": 0.5}


def test_a_grid_holds_every_point_once_and_no_parameter_that_does_not_exist() -> None:
    points = grid(parse_space(CONDITIONAL))
    assert len(points) == 3 + 2 + 3
    assert {"loss": "redi", "loss.alpha (loss=redi)": 0.5} in points
    assert {"loss": "simpo", "loss.beta (loss=simpo)": 4} in points
    assert all(("loss.alpha (loss=redi)" in point) == (point["loss"] == "redi") for point in points)


def test_a_sobol_sequence_fills_the_ranges_evenly_and_goes_on_where_it_ended() -> None:
    space = parse_space(CONDITIONAL | {"optimizer.lr": {"low": 1e-5, "high": 1e-1, "log": True}})
    points = sobol(space, 48, seed=3)
    assert sobol(space, 20, seed=3) == points[:20]
    assert sobol(space, 48, seed=4) != points
    decades = [math.floor(math.log10(point["optimizer.lr"])) for point in points]  # type: ignore[arg-type]
    assert all(10 <= decades.count(decade) <= 14 for decade in (-5, -4, -3, -2))
    assert {point["loss"] for point in points} == {"redi", "dpo", "simpo"}
    assert all(("loss.alpha (loss=redi)" in point) == (point["loss"] == "redi") for point in points)
    assert {point.get("loss.beta (loss=simpo)", 2) for point in points} == {2, 3, 4}
    for point in points:  # each is one that the study takes as it is
        assert suggest(space, optuna.trial.FixedTrial(point))["optimizer.lr"] == point["optimizer.lr"]


RATIO: dict[str, Any] = {
    "loss.beta": {"low": 2.0, "high": 30.0, "log": True},
    "loss.gamma": {"low": 0.0, "high": 1.0, "times": "loss.beta"},
}


def test_a_range_can_be_a_share_of_another() -> None:
    space = parse_space(RATIO)
    assert suggest(space, optuna.trial.FixedTrial({"loss.beta": 8.0, "loss.gamma": 0.25})) == {
        "loss.beta": 8.0,
        "loss.gamma": 2.0,
    }
    composed: list[list[str]] = []
    check_space(space, composed.append)
    assert ["loss.beta=2.0", "loss.gamma=2.0"] in composed  # the upper end of the share


def test_steps_are_the_decimal_numbers_that_were_written() -> None:
    assert parse_space({"loss.alpha": {"low": 0.0, "high": 1.0, "step": 0.1}})[0].points() == (
        0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0,
    )  # fmt: skip


def test_a_trial_gets_the_decimal_number_too() -> None:
    space = parse_space({"loss.alpha": {"low": 0.2, "high": 1.0, "step": 0.2}})
    assert suggest(space, optuna.trial.FixedTrial({"loss.alpha": 0.2 + 2 * 0.2})) == {"loss.alpha": 0.6}


@pytest.mark.parametrize(
    ("value", "override"),
    [
        (0.0001, "a.b=0.0001"),
        (None, "a.b=null"),
        (True, "a.b=true"),
        ("dpo", "a.b=dpo"),
        ("it's, [so]", "a.b='it\\'s, [so]'"),
    ],
)
def test_overrides_give_hydra_back_what_was_chosen(value: Any, override: str) -> None:
    assert as_overrides({"a.b": value}) == [override]
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(override).value()
    assert str(parsed) == str(value)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({}, "sweep.space is empty"),
        (None, "sweep.space is empty"),
        ({"a": "redi"}, "sweep.space.a='redi': give a list of choices"),
        ({"a": []}, "give a list of choices"),
        ({"a": [0.1, 0.1]}, "repeated"),
        ({"a": [[1], [2]]}, "cannot be a choice"),
        ({"a": {"low": 0.0, "hihg": 1.0}}, "unknown key sweep.space.a.hihg: a parameter has low, high"),
        ({"a": {"low": 1.0, "high": 0.5}}, "needs numbers low < high, got low=1.0, high=0.5"),
        ({"a": {"low": 0, "high": 1}}, "type: int (whole numbers) or float"),
        ({"a": {"low": 0.5, "high": 2, "type": "int"}}, "low=0.5, high=2, type=int"),
        ({"a": {"low": 0.0, "high": 1.0, "log": True}}, "`low > 0`"),
        ({"a": {"low": 0.1, "high": 1.0, "step": -1}}, "sweep.space.a: `step > 0` must hold, but got step=-1"),
        ({"a": {"low": 0.1, "high": 1.0, "when": {"loss": "dpo"}}}, "loss is not a parameter with choices above it"),
        ({"loss": ["dpo"], "a": {"choices": [1], "when": {"loss": "redi"}}}, "loss is never redi; it is one of dpo"),
        ({"a": RATIO["loss.gamma"]}, "sweep.space.a.times=loss.beta: must name a range above this one"),
        ({"loss.beta": [1.0], "a": RATIO["loss.gamma"]}, "sweep.space.a.times=loss.beta: must name a range"),
        (RATIO | {"a": {"low": 1, "high": 2, "type": "int", "times": "loss.beta"}}, "a range of type float"),
        ({"loss": ["dpo"], "a": [{"choices": [1]}, {"choices": [2]}]}, "several ranges need different conditions"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(space: Any, message: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_space(space)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_continuum_is_no_grid() -> None:
    with pytest.raises(UserError, match=r"optimizer.lr is a continuous range.*give step or a list"):
        grid(parse_space({"optimizer.lr": {"low": 1e-5, "high": 1e-3, "log": True}}))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"loss.alpha": {"low": 0.5, "high": 1.5}}, "sweep.space at loss.alpha=1.5: loss.alpha=1.5: must be"),
        ({"loss": ["redi", "dpoo"]}, "sweep.space at loss=dpoo: loss=dpoo: no such option"),
        (
            {"loss": ["redi", "dpo"], "loss.beta": {"low": -1.0, "high": 1.0, "when": {"loss": "dpo"}}},
            "sweep.space at loss=dpo loss.beta=-1.0: loss.beta=-1.0: must be above 0",
        ),
        (
            {"loss": ["redi", "dpo"], "loss.alpha": [0.5]},
            "sweep.space at loss=dpo loss.alpha=0.5: unknown key loss.alpha",
        ),
    ],
)
def test_every_end_of_every_range_is_composed(space: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as refused:
        check_space(parse_space(space), lambda overrides: load_config("train", overrides))
    assert str(refused.value).startswith(message)
