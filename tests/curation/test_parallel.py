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
    time.sleep(0.02 if value % 3 == 0 else 0)  # later items overtake earlier ones
    return value * value


@pytest.mark.parametrize("num_workers", [0, 2])
def test_results_are_in_order(num_workers: int) -> None:
    assert list(map_ordered(make_square, range(20), num_workers)) == [v * v for v in range(20)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_few_items_are_read_ahead(num_workers: int) -> None:
    read = 0

    def items() -> Iterator[int]:
        nonlocal read
        for value in range(1000):
            read += 1
            yield value

    results = map_ordered(make_square, items(), num_workers)
    assert next(results) == 0
    assert read <= 2 * num_workers + 1
    results.close()  # type: ignore[attr-defined]


def test_one_slow_item_does_not_let_the_others_pile_up() -> None:
    read: list[int] = []

    def items() -> Iterator[int]:
        for value in range(60):
            read.append(value)
            yield value

    results = map_ordered(make_slow_first, items(), 2)
    assert next(results) == 0
    assert len(read) <= 5
    assert list(results) == list(range(1, 60))


def make_slow_first() -> Callable[[int], int]:
    return slow_first


def slow_first(value: int) -> int:
    time.sleep(0.3 if value == 0 else 0)
    return value


@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_killed_worker_changes_nothing(num_workers: int, tmp_path: Path) -> None:
    made = map_ordered(partial(make_deadly, str(tmp_path)), range(12), num_workers)
    assert list(made) == [value * value for value in range(12)]
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_comes_through(num_workers: int) -> None:
    with pytest.raises(ValueError, match="negative: -1"):
        list(map_ordered(make_square, [1, -1, 2], num_workers))
