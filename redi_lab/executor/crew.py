"""Hands out many independent pieces of work (trials, completions, rows) to workers, and again when a worker dies.

    with closing(Crew(starter(None, make_work), num_workers=4)) as crew:
        for item, result in crew.run(items):
            ...

A worker is a process of this machine, an actor of a Ray cluster, or whatever else fits `Worker`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol, final

from redi_lab.errors import UserError

POLL_SECONDS = 1.0  # between two questions to a source of items that has none at the moment
_END = object()


@final
class WorkerDiedError(Exception):
    """A worker will do no more, and what it had under way is lost; says why."""


class Worker(Protocol):
    """Does items, one at a time or several."""

    @property
    def ready(self) -> Future[Any]:
        """Done as soon as there is a place where it runs."""

    def submit(self, item: Any) -> Future[Any]:
        """Begin with an item; the future fails with what the item's work raised, or because the worker died."""

    def plain(self, error: BaseException) -> BaseException:
        """What a future failed with, as it was raised by the work, or as a `WorkerDiedError`."""

    def close(self) -> None:
        """Interrupt what is under way, and end."""


@final
@dataclass(eq=False)
class _Post:
    """A worker's place, which another takes when it dies.

    Attributes:
        worker: who has it now.
        num_items: that the worker has under way.
        num_deaths: of workers in a row that finished nothing.
    """

    worker: Worker
    num_items: int = 0
    num_deaths: int = 0


@final
class Crew:
    """Workers that live as long as there is work for them.

    Args:
        start: makes a worker, from its number below `num_workers`.
        num_workers: at once.
        in_flight: items that a worker has at once.
        max_deaths: this many workers of one place may die in a row without finishing an item.
    """

    def __init__(
        self, start: Callable[[int], Worker], num_workers: int, *, in_flight: int = 1, max_deaths: int = 2
    ) -> None:
        self._start = start
        self._in_flight = in_flight
        self._max_deaths = max_deaths
        self._posts = [_Post(start(number)) for number in range(num_workers)]
        self._doing: dict[Future[Any], tuple[_Post, Worker, Any]] = {}
        self._again: deque[Any] = deque()
        self._events: SimpleQueue[Future[Any]] = SimpleQueue()  # what is done: an item, or a worker's wait for a place
        for post in self._posts:
            post.worker.ready.add_done_callback(self._events.put)

    def run(
        self, items: Iterator[Any | None], on_loss: Callable[[Any, str], None] | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Yield each item with its result, as they come. Whoever has least to do gets the next item.

        Args:
            items: read one by one as workers have room; None: there is none now, ask again in a while.
            on_loss: learns of an item that a worker had when it died, and why that was; None: another worker gets it.

        Raises:
            UserError: workers died again and again.
            Exception: what the work on an item raised. What is under way then is lost: close the crew.
        """
        lost = on_loss or (lambda item, reason: self._again.append(item))
        while self._hand_out(items) or self._doing:
            try:
                future = self._events.get(timeout=POLL_SECONDS)
            except Empty:
                continue
            if future not in self._doing:
                continue
            post, worker, item = self._doing.pop(future)
            raw = future.exception()
            error = None if raw is None else worker.plain(raw)
            if post.worker is worker:
                post.num_items -= 1
                post.num_deaths *= error is not None
            if error is None:
                yield item, future.result()
            elif isinstance(error, WorkerDiedError):
                if post.worker is worker:
                    self._replace(post, error)
                lost(item, str(error))
            else:
                raise error

    def close(self) -> None:
        """Interrupt what is under way, and end all workers, at the same time."""
        with ThreadPoolExecutor(len(self._posts)) as pool:
            list(pool.map(lambda post: post.worker.close(), self._posts))

    def _hand_out(self, items: Iterator[Any | None]) -> bool:
        """Give items to workers as long as there are both; whether there may be more."""
        while True:
            able = [post for post in self._posts if post.num_items < self._in_flight and post.worker.ready.done()]
            if not able:
                return True
            item = self._again.popleft() if self._again else next(items, _END)
            if item is None or item is _END:
                return item is None
            post = min(able, key=lambda post: post.num_items)
            post.num_items += 1
            future = post.worker.submit(item)
            self._doing[future] = (post, post.worker, item)
            future.add_done_callback(self._events.put)

    def _replace(self, post: _Post, error: WorkerDiedError) -> None:
        post.num_deaths += 1
        post.worker.close()
        if post.num_deaths > self._max_deaths:
            number = self._posts.index(post)
            raise UserError(f"worker {number} died {post.num_deaths} times in a row, at last because {error}")
        post.worker, post.num_items = self._start(self._posts.index(post)), 0
        post.worker.ready.add_done_callback(self._events.put)
