"""Batches from worker processes that may be killed: each comes once, in order, whatever happens to the workers."""

from __future__ import annotations

import atexit
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, final
from weakref import WeakSet

import torch
from torch.utils.data import DataLoader, Sampler

from redi_lab.errors import UserError

_LOG = logging.getLogger(__name__)
_OPEN: WeakSet[Any] = WeakSet()  # iterators with workers
_MAX_DEATHS = 3  # before one batch: what kills workers so often will do so again


@final
class RestartingLoader:
    """Iterates a `DataLoader` with workers, and makes another one for the rest of the epoch when a worker is killed.

    Args:
        load: makes the loader of the given samples, in their order; packing draws no random numbers, so it makes no
            difference which worker does it.
        sampler: what each epoch consists of; Lightning tells it the epoch.
    """

    batch_sampler = None  # Lightning asks what has a sampler for it

    def __init__(self, load: Callable[[Sequence[list[int]]], DataLoader[Any]], sampler: Sampler[list[int]]) -> None:
        self._load = load
        self.sampler = sampler

    def __len__(self) -> int:
        return len(self.sampler)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of an epoch.

        Raises:
            UserError: workers were killed again and again.
        """
        batches = list(self.sampler)
        iterator, done, deaths = _open(self._load(batches)), 0, 0
        while done < len(batches):
            try:
                batch = next(iterator)
            except Exception as error:  # of torch, or of the connection over which a batch came
                if not _is_any_killed(iterator):
                    raise
                _kill(iterator)
                deaths += 1
                if deaths == _MAX_DEATHS:
                    raise UserError(
                        f"data.num_workers: processes that pack batches were killed {deaths} times in a row, mostly for"
                        " want of memory; lower it (0: no processes), then give the same command again"
                    ) from error
                _LOG.warning("a process that packs batches was killed, mostly for want of memory; starting anew")
                with torch.random.fork_rng(devices=[]):  # a loader draws a seed, which training must not notice
                    iterator = _open(self._load(batches[done:]))
            else:
                done, deaths = done + 1, 0
                yield batch


def _open(loader: DataLoader[Any]) -> Any:
    """The loader's own iterator, which tells a worker's death only where a batch is asked for.

    torch would raise it from a SIGCHLD handler, in the middle of whatever the trainer does.
    """
    before = signal.getsignal(signal.SIGCHLD)
    iterator = iter(loader)
    if threading.current_thread() is threading.main_thread():  # torch sets none in others
        signal.signal(signal.SIGCHLD, before)
    _OPEN.add(iterator)
    return iterator


def _is_any_killed(iterator: Any) -> bool:
    for worker in iterator._workers:
        worker.join(timeout=0.5)  # its connections close a moment before it has ended
    return any(worker.exitcode not in (None, 0) for worker in iterator._workers)


def _kill(iterator: Any) -> None:
    for worker in iterator._workers:
        worker.kill()


@atexit.register
def _kill_all() -> None:
    """Python would wait for ever for workers that ignore SIGTERM; this runs before it does."""
    for iterator in _OPEN:
        _kill(iterator)
