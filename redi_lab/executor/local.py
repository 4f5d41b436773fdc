"""Workers that are processes of this machine.

A process lives as long as there is work, so that imports are paid once, and ends with the process that started it,
however that ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, final

from redi_lab.errors import UserError
from redi_lab.executor.crew import Worker, WorkerDiedError

_FAREWELL_SECONDS = 20.0  # for what is under way to end once it is interrupted
_EXIT_SECONDS = 2.0
_GPUS = Path("/proc/driver/nvidia/gpus")
_busy = threading.Lock()  # while something is under way
_over = threading.Event()  # once this process is to end
_work: Callable[[Any], Any] | None = None


@final
class _ProcessWorker:
    """One process, which starts with the first item and does one at a time."""

    def __init__(self, make_work: Callable[[], Callable[[Any], Any]], environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        heard, self._line = context.Pipe(duplex=False)
        self._make_work = make_work
        self._pool = ProcessPoolExecutor(1, context, _begin, (heard, dict(environment)))
        self.ready: Future[Any] = Future()
        self.ready.set_result(None)

    def submit(self, item: Any) -> Future[Any]:
        try:
            return self._pool.submit(_do, self._make_work, item)
        except BrokenExecutor as error:
            failed: Future[Any] = Future()
            failed.set_exception(error)
            return failed

    def plain(self, error: BaseException) -> BaseException:
        if not isinstance(error, BrokenExecutor):
            return error
        return WorkerDiedError("a worker process was killed, which mostly means too little memory")

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._line.close()
        self._pool.shutdown()


def _begin(line: Connection, environment: Mapping[str, str]) -> None:
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # while nothing is under way
    threading.Thread(target=_end_with, args=(line,), daemon=True).start()


def _end_with(line: Connection) -> None:
    """End when the other end of a line is closed, be it that its process is dead."""
    with contextlib.suppress(EOFError):
        line.recv()
    _over.set()
    os.kill(os.getpid(), signal.SIGINT)
    _busy.acquire(timeout=_FAREWELL_SECONDS)
    time.sleep(_EXIT_SECONDS)  # where this process was told to end, it does so by itself
    os._exit(1)


def _do(make_work: Callable[[], Callable[[Any], Any]], item: Any) -> Any:
    global _work
    with _busy:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            if _over.is_set():  # while this function was imported
                raise KeyboardInterrupt
            if _work is None:
                _work = make_work()
            return _work(item)
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def starter(
    cluster: str | None,
    make_work: Callable[[], Callable[[Any], Any]],
    environment: Callable[[int], Mapping[str, str]],
    gpus: int | None = 0,
    key: str = "",
) -> Callable[[int], Worker]:
    """What starts workers: processes, or actors of a Ray cluster (imported for that alone).

    Args:
        cluster: address; None: this machine.
        make_work: makes the function that does an item, once, in the worker. It must be picklable, and so must items
            and results.
        environment: further variables of a process of this machine, by its number, set before anything heavy is
            imported.
        gpus: see `redi_lab.executor.cluster.actors`.
        key: likewise.

    Raises:
        UserError: likewise.
    """
    if cluster is None:
        return lambda number: _ProcessWorker(make_work, environment(number))
    from redi_lab.executor.cluster import actors

    return actors(cluster, make_work, gpus, key)


def share_of_machine(number: int, num_workers: int, gpus: int | None, key: str) -> dict[str, str]:
    """Environment variables of one of several workers of this machine: its part of the cores, and its GPUs.

    Args:
        number: of the worker, from 0.
        num_workers: of this machine.
        gpus: that it has to itself; None: one, shared with others where there are too few.
        key: setting that asks for them, for the message.

    Raises:
        UserError: there are too few GPUs.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // num_workers)
    share = {} if num_workers == 1 else {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    devices = visible_gpus()
    if gpus is None:
        is_shared_out = devices and num_workers > 1
        return share | ({"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} if is_shared_out else {})
    if len(devices) < gpus * num_workers:
        raise UserError(
            f"{key}={gpus}: {num_workers} at once need {gpus * num_workers} GPUs, and this machine has {len(devices)}"
            " (CUDA_VISIBLE_DEVICES may hide some)"
        )
    return share | {"CUDA_VISIBLE_DEVICES": ",".join(devices[number * gpus : (number + 1) * gpus])}


def visible_gpus() -> list[str]:
    """Names of the GPUs of this machine that the command may use."""
    every = ",".join(str(number) for number in range(len(list(_GPUS.glob("*")))))
    return [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", every).split(",") if device]
