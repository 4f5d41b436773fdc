"""REDI without pairs: Eq. 5 with each term averaged over its own traces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from redi_lab.losses.redi import redi_loss
from redi_lab.losses.sequences import SequenceLogps
from redi_lab.losses.unpaired_redi import unpaired_redi_loss


def sequences(logps: list[float], lengths: list[int]) -> SequenceLogps:
    return SequenceLogps(torch.tensor(logps, dtype=torch.float64), torch.tensor(lengths))


CHOSEN = sequences([-6.0, -1.0], [4, 2])
REJECTED = sequences([-10.0, -9.0, -4.0], [5, 3, 4])
NONE = sequences([], [])


def loss(chosen: SequenceLogps, rejected: SequenceLogps, alpha: float = 0.8, sizes: tuple[int, int] = (2, 3)) -> Tensor:
    return unpaired_redi_loss(chosen, rejected, alpha=alpha, num_chosen=sizes[0], num_rejected=sizes[1])


def test_hand_worked_example() -> None:
    """Chosen −1.5 and −0.5, mean −1; rejected −2, −3 and −1, mean −2: 1 − 0.8·2 = −0.6."""
    assert float(loss(CHOSEN, REJECTED)) == pytest.approx(-0.6, rel=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.8, 1.0])
def test_with_equal_numbers_it_is_the_mean_of_the_pairs(alpha: float) -> None:
    rejected = sequences([-10.0, -9.0], [5, 3])
    pairs = redi_loss(CHOSEN, rejected, alpha=alpha).mean()
    torch.testing.assert_close(loss(CHOSEN, rejected, alpha, (2, 2)), pairs)


def test_shares_of_a_batch_add_up_to_it() -> None:
    first = SequenceLogps(CHOSEN.logps[:1], CHOSEN.lengths[:1])
    rest = SequenceLogps(CHOSEN.logps[1:], CHOSEN.lengths[1:])
    torch.testing.assert_close(loss(first, NONE) + loss(rest, REJECTED), loss(CHOSEN, REJECTED))
    assert float(loss(NONE, NONE, sizes=(0, 0))) == 0.0


def test_doubling_the_negatives_changes_nothing() -> None:
    twice = SequenceLogps(REJECTED.logps.repeat(2), REJECTED.lengths.repeat(2))
    torch.testing.assert_close(loss(CHOSEN, twice, sizes=(2, 6)), loss(CHOSEN, REJECTED))


def test_numbers_smaller_than_what_is_given_are_refused() -> None:
    with pytest.raises(ValueError, match="num_rejected=2 is less than the 3 sequences"):
        loss(CHOSEN, REJECTED, sizes=(2, 2))
    with pytest.raises(ValueError, match="rejected: sequence 0 has 0 completion tokens"):
        loss(CHOSEN, sequences([-1.0], [0]))
