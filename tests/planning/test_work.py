"""Operations by hand, and the rates that trainings found."""

from __future__ import annotations

from pathlib import Path

import pytest

from redi_lab.planning.rates import Rates
from redi_lab.planning.step import Work, forward_work


def test_operations_by_hand() -> None:
    """Sequences of 3 and 5 tokens: 2·8·7 in layers, 2·(9 + 25)·4 in attention, 2·(2 + 4)·6 in the head."""
    assert forward_work([(3, 2), (5, 4)], products=7, attention_width=4, head=6) == Work(112.0, 272.0, 72.0)


@pytest.mark.parametrize(
    ("share", "is_head_trained", "mode", "expected"),
    [
        (1.0, True, "none", 3 * 111),
        (1.0, True, "selective", 3 * 111),
        (1.0, True, "full", 4 * 110 + 3),
        (0.0, False, "none", 2 * 100 + 3 * 10 + 2),
    ],
)
def test_a_step_by_hand(share: float, is_head_trained: bool, mode: str, expected: float) -> None:
    work = Work(100.0, 10.0, 1.0)
    assert work.of_a_step(trained_share=share, is_head_trained=is_head_trained, checkpointing=mode) == expected


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
