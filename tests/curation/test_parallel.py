"""Results come in order, items are read as needed, and errors come through."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from redi_lab.curation.parallel import map_ordered


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


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_comes_through(num_workers: int) -> None:
    with pytest.raises(ValueError, match="negative: -1"):
        list(map_ordered(make_square, [1, -1, 2], num_workers))
