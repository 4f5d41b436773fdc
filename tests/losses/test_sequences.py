"""Sums of token values by sequence, and what is refused."""

from __future__ import annotations

import pytest
import torch

from redi_lab.losses.sequences import SequenceLogps, sum_by_sequence


def test_sum_by_sequence_hand_worked_example() -> None:
    """Tokens 1, 2 belong to sequence 0, 4 and 8 to sequence 2, none to sequence 1: sums 3, 0, 12."""
    values = torch.tensor([4.0, 1.0, 2.0, 8.0], requires_grad=True)
    sums = sum_by_sequence(values, torch.tensor([2, 0, 0, 2]), 3)
    assert sums.tolist() == [3.0, 0.0, 12.0]
    (gradient,) = torch.autograd.grad((sums * torch.tensor([1.0, 10.0, 100.0])).sum(), values)
    assert gradient.tolist() == [100.0, 1.0, 1.0, 100.0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_sum_by_sequence_is_exact_to_its_dtype_and_repeatable(dtype: torch.dtype) -> None:
    """100,000 values of −0.1: a running fp32 sum would be off in the fourth digit."""
    values = torch.full((100_000,), -0.1, dtype=dtype)
    index = torch.arange(100_000) % 3
    sums = sum_by_sequence(values, index, 3)
    expected = torch.bincount(index).double() * values[0].double()
    assert sums.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(sums.double(), expected, rtol=1e-7, atol=0.0)
    assert all(torch.equal(sums, sum_by_sequence(values, index, 3)) for _ in range(3))


def test_mean_logps_divide_by_length() -> None:
    sequences = SequenceLogps(torch.tensor([-6.0, -1.0]), torch.tensor([4, 2]))
    assert sequences.mean_logps.tolist() == [-1.5, -0.5]


def test_log_ratios_need_a_reference() -> None:
    sequences = SequenceLogps(torch.tensor([-6.0, -1.0]), torch.tensor([4, 2]), torch.tensor([-5.0, -3.0]))
    assert sequences.log_ratios.tolist() == [-1.0, 2.0]
    assert sequences.at(slice(1, None)).log_ratios.tolist() == [2.0]
    with pytest.raises(ValueError, match="reference"):
        _ = sequences._replace(reference=None).at(torch.tensor([True, False])).log_ratios


@pytest.mark.parametrize(
    ("index", "value"),
    [
        (torch.tensor([0, 1]), r"\(3,\) and \(2,\)"),
        (torch.tensor([0, 1, 2]), r"sequence_index .* \[0, 2\), got 2 at position 2 of 3"),
        (torch.tensor([0.0, 1.0, 1.0]), "sequence_index .* torch.float32"),
    ],
)
def test_bad_indices_are_refused(index: torch.Tensor, value: str) -> None:
    with pytest.raises(ValueError, match=value):
        sum_by_sequence(torch.ones(3), index, 2)
