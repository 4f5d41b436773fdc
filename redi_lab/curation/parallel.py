"""Maps a function over a stream in worker processes: results in order, and only a few items in memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_WAITING_PER_WORKER = 2  # enough to keep a worker busy while the others' results are written

_worker: Callable[[Any], Any] | None = None


def map_ordered(
    make_worker: Callable[[], Callable[[Item], Result]], items: Iterable[Item], num_workers: int
) -> Iterator[Result]:
    """Yield the worker's result of each item, in the order of the items.

    Args:
        make_worker: makes the function, once in each process: an expensive set-up (a tokenizer, an index) belongs
            there. It must be picklable, and so must items and results.
        items: read as they are needed, never all at once.
        num_workers: processes; 0 works in this one.

    Raises:
        Exception: what the function raises for an item, in place of its result.
    """
    if num_workers == 0:
        yield from map(make_worker(), items)
        return
    # A fork server: forking a parent in which libraries have started threads can deadlock the child.
    pool = ProcessPoolExecutor(num_workers, get_context("forkserver"), _set_up, (make_worker,))
    waiting: deque[Future[Any]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(_work, item))
            if len(waiting) > num_workers * _WAITING_PER_WORKER:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _set_up(make_worker: Callable[[], Callable[[Any], Any]]) -> None:
    global _worker
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the processes are the parallelism
    _worker = make_worker()


def _work(item: Any) -> Any:
    assert _worker is not None
    return _worker(item)
