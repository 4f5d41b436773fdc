"""Maps a function over a stream in worker processes: results in order, and only a few items in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from functools import partial
from typing import Any, TypeVar

from redi_lab.executor.crew import Crew
from redi_lab.executor.local import starter

Item = TypeVar("Item")
Result = TypeVar("Result")

_WAITING_PER_WORKER = 2  # enough to keep a worker busy while the others' results are written


def map_ordered(
    make_worker: Callable[[], Callable[[Item], Result]],
    items: Iterable[Item],
    num_workers: int,
    cluster: str | None = None,
) -> Iterator[Result]:
    """Yield the worker's result of each item, in the order of the items. What a worker had that died, another does.

    Args:
        make_worker: makes the function, once in each process: an expensive set-up (a tokenizer, an index) belongs
            there. It must be picklable, and so must items and results.
        items: read as they are needed, never all at once.
        num_workers: processes; 0 works in this one.
        cluster: address of a Ray cluster, whose processes they are; None: of this machine.

    Raises:
        Exception: what the function raises for an item.
        UserError: workers died again and again, or the cluster cannot be reached.
    """
    if num_workers == 0:
        yield from map(make_worker(), items)
        return
    most = num_workers * _WAITING_PER_WORKER + 1
    num_read = num_done = 0

    def numbered() -> Iterator[tuple[int, Item] | None]:
        nonlocal num_read
        for number, item in enumerate(items):
            num_read += 1
            yield number, item
            while num_read - num_done >= most:  # a slow item holds up the results of those behind it
                yield None

    start = starter(cluster, partial(_unnumbered, make_worker), lambda _: {"TOKENIZERS_PARALLELISM": "false"})
    waiting: dict[int, Result] = {}
    with closing(Crew(start, num_workers, in_flight=_WAITING_PER_WORKER)) as crew:
        for (number, _), result in crew.run(numbered()):
            waiting[number] = result
            while num_done in waiting:
                num_done += 1
                yield waiting.pop(num_done - 1)


def _unnumbered(make_worker: Callable[[], Callable[[Any], Any]]) -> Callable[[tuple[int, Any]], Any]:
    work = make_worker()
    return lambda numbered: work(numbered[1])
