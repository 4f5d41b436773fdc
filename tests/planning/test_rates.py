"""The rates that trainings found."""

from __future__ import annotations

from pathlib import Path

import pytest

from redi_lab.planning.rates import Rates


def test_rates_are_kept_and_found(tmp_path: Path) -> None:
    rates = Rates(tmp_path / "cache")
    assert rates.find("cpu", "32-true", 96) is None
    for width, rate in ((96, 1.0), (96, 2.0), (1536, 9.0)):
        rates.add("NVIDIA H100 80GB HBM3", "bf16-mixed", width, rate)
    assert rates.find("NVIDIA H100", "bf16-mixed", 128) == 2.0  # the newest of the nearest width
    assert rates.find("NVIDIA H100", "bf16-mixed", 1000) == 9.0
    assert rates.find("NVIDIA H100", "32-true", 96) is None
    assert rates.find("NVIDIA A100", "bf16-mixed", 96) is None


@pytest.mark.parametrize("text", ["", "[]", "\ud83d"])
def test_damaged_rates_are_measured_again(text: str, tmp_path: Path) -> None:
    (tmp_path / "rates.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    assert Rates(tmp_path).find("cpu", "32-true", 96) is None
    Rates(tmp_path).add("cpu", "32-true", 96, 3.0)
    assert Rates(tmp_path).find("cpu", "32-true", 96) == 3.0
