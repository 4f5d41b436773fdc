from __future__ import annotations

import dataclasses
import json

import pytest

from redi_lab.data.traces import Generation, SelectionCounts

COUNTS = SelectionCounts(
    rows_read=10,
    dropped={"no generations": 2, "no correct generation": 1},
    demonstrations=4,
    pairs=3,
    without_pair={"no incorrect generation": 2},
    held_out=2,
    without_demonstration={"repeated": 1},
)


def test_counts_that_add_up_pass() -> None:
    """10 rows = 3 dropped + 2 held out + 4 demonstrations + 1 repeated; these 5 in use = 3 pairs + 2 without."""
    COUNTS.check()


@pytest.mark.parametrize("change", [{"rows_read": 11}, {"dropped": {}}, {"held_out": 1}, {"demonstrations": 5}])
def test_a_lost_row_is_noticed(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="rows were read but"):
        dataclasses.replace(COUNTS, **change).check()  # type: ignore[arg-type]


def test_a_lost_pair_is_noticed() -> None:
    with pytest.raises(ValueError, match="5 rows are in use but 4 gave a pair or a reason"):
        dataclasses.replace(COUNTS, pairs=2).check()


def test_counts_go_through_json() -> None:
    assert SelectionCounts(**json.loads(json.dumps(COUNTS.as_dict()))) == COUNTS


def test_records_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Generation("text", None).correct = True  # type: ignore[misc]
