from __future__ import annotations

import pytest

from redi_lab.grading.units import canonical_unit, is_unit


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("", ""),
        ("centimeters", "cm"),
        ("⟦square inches⟧", "in^2"),
        (r"⟦kg⟧\cdot⟦m⟧/⟦s⟧^{2}", "kg m/s^2"),
        ("miles per hour", "mi/h"),
        ("＄", "＄"),
        ("dollars", "＄"),
        ("percent", "%"),
        ("Apples", "apples"),
    ],
)
def test_canonical_unit(unit: str, expected: str) -> None:
    assert canonical_unit(unit) == expected


@pytest.mark.parametrize("unit", ["cm", "kg m/s^2", "apples", "%", "＄"])
def test_what_a_number_may_be_followed_by(unit: str) -> None:
    assert is_unit(unit)


@pytest.mark.parametrize("unit", ["", "wrong", "millions", "million", "is wrong", "less", "apple pies"])
def test_words_that_may_change_the_number_are_no_unit(unit: str) -> None:
    assert not is_unit(unit)
