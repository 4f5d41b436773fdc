"""Results come in order, items are read as needed, and errors come through."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from redi_lab.curation.parallel import map_ordered
from tests.executor.works import make_deadly


def make_square() -> Callable[[int], int]:
    return square


def square(value: int) -> int:
    if value < 0:
        raise ValueError(f"negative: {value}")
    return value * value


@pytest.mark.parametrize("num_workers", [0, 2])
def test_results_are_in_order_and_few_items_read_ahead_of_a_slow_one(num_workers: int) -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for value in range(60):
            read.append(value)
            yield value

    results = map_ordered(make_slow_first, items(), num_workers)
    assert next(results) == 0
    assert len(read) <= 2 * num_workers + 1
    assert list(results) == list(range(1, 60))


def make_slow_first() -> Callable[[int], int]:
    return slow_first


def slow_first(value: int) -> int:
    time.sleep(0.3 if value == 0 else 0.02 if value % 3 == 0 else 0)  # later items overtake earlier ones
    return value


def test_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    made = map_ordered(partial(make_deadly, str(tmp_path)), range(12), num_workers=1)
    assert list(made) == [value * value for value in range(12)]
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_comes_through(num_workers: int) -> None:
    with pytest.raises(ValueError, match="negative: -1"):
        list(map_ordered(make_square, [1, -1, 2], num_workers))
