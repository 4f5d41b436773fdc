from __future__ import annotations

import pytest
from redi_lab.evaluation.quantities import Quantity, UnitsDiffer, canonical_unit, read_quantity, unwrap_text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"15\text{ cm}^2", Quantity("15", "cm^2")),
        ("125 miles", Quantity("125", "miles")),
        ("9customers", Quantity("9", "customers")),
        (r"28\text{ percent}", Quantity("28", is_percent=True)),
        ("28%", Quantity("28", is_percent=True)),
        ("$7.50", Quantity("7.50")),
        (r"3\mathrm{~kg}\cdot\mathrm{m}/\mathrm{s}", Quantity("3", r"kg\cdotm/s")),
        (r"\text{Even}", Quantity("Even", is_text=True)),
        ("37m", Quantity("37m")),  # a letter alone may be a variable
        (r"\mathrm{e}^2", Quantity("e^2")),
        (r"k_{\mathrm{B}}", Quantity("k_{B}")),
        ("5\\", Quantity("5")),
    ],
)
def test_read_quantity(text: str, expected: Quantity) -> None:
    assert read_quantity(unwrap_text(text)) == expected


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("cm", "centimeters", UnitsDiffer.NO),
        ("square inches", "in^2", UnitsDiffer.NO),
        ("", "cm", UnitsDiffer.NO),
        ("cm", "m", UnitsDiffer.YES),
        ("cm", "cm^2", UnitsDiffer.YES),
        ("boys", "children", UnitsDiffer.MAYBE),
    ],
)
def test_units_differ(left: str, right: str, expected: UnitsDiffer) -> None:
    assert Quantity("1", left).units_differ(Quantity("1", right)) is expected


def test_canonical_unit_of_nothing() -> None:
    assert canonical_unit("") == ""
