"""Workers that are actors of a Ray cluster; Ray places them where there is room, also on machines that join later.

The machines see the same files under the same paths and have the lab installed. An actor works in the command's working
directory, and has those of its environment variables that its machine does not set otherwise.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, final

import ray

from redi_lab.errors import UserError, in_short
from redi_lab.executor.crew import Worker, WorkerDiedError

_OF_THE_MACHINE = ("CUDA_", "OMP_", "RAY_", "SLURM_")
_PROBE_SECONDS = 10.0


def actors(
    address: str, make_work: Callable[[], Any], gpus: int | None, key: str, in_flight: int | None = None
) -> Callable[[int], Worker]:
    """What starts workers on a cluster.

    Args:
        address: HOST:PORT of its head.
        make_work: makes the function that does an item, once, in the actor. With `in_flight` it makes an object whose
            `submit` begins with an item and returns a future.
        gpus: that an actor has to itself, besides one core; None: one, where there are any.
        key: setting that asks for them, for the message.
        in_flight: items that an actor has at once; None: one, which is done in the actor's main thread.

    Raises:
        UserError: there is no such cluster, or none of its machines has as many GPUs: Ray would wait for one.
    """
    try:
        host, _, port = address.rpartition(":")
        socket.create_connection((host, int(port)), timeout=_PROBE_SECONDS).close()  # Ray itself asks for minutes
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level="ERROR")
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(
            f"launcher.address={address}: no Ray cluster can be reached there ({in_short(error)}); start one with"
            " `ray start --head`, and add machines with `ray start --address=HOST:PORT`"
        ) from error
    most = max(int(node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"])
    wanted = min(1, most) if gpus is None else gpus
    if wanted > most:
        raise UserError(f"{key}={wanted}: no machine of the Ray cluster has more than {most} GPUs")
    return lambda _: _ActorWorker(make_work, wanted, in_flight)


@final
class _ActorWorker:
    def __init__(self, make_work: Callable[[], Any], gpus: int, in_flight: int | None) -> None:
        kind = ray.remote(_Function if in_flight is None else _Server)
        variables = {k: v for k, v in os.environ.items() if not k.startswith(_OF_THE_MACHINE)}
        # One more than are in flight: `begin` may come late.
        options = {"num_cpus": 1, "num_gpus": gpus, "max_concurrency": 1 if in_flight is None else in_flight + 1}
        self._actor = kind.options(**options).remote(make_work, os.getcwd(), variables)
        self.ready: Future[Any] = self._actor.begin.remote().future()

    def submit(self, item: Any) -> Future[Any]:
        future: Future[Any] = self._actor.work.remote(item).future()
        return future

    def plain(self, error: BaseException) -> BaseException:
        if isinstance(error, ray.exceptions.RayActorError):
            return WorkerDiedError(f"a worker of the Ray cluster was lost: {in_short(error)}")
        return getattr(error, "cause", error)  # of the work's own, Ray makes a class of both kinds

    def close(self) -> None:
        ray.kill(self._actor)


class _Actor:
    def __init__(self, make_work: Callable[[], Any], folder: str, variables: Mapping[str, str]) -> None:
        self._make_work, self._folder, self._variables = make_work, folder, variables
        self._made: Any = None

    def _work(self) -> Any:
        """What was made: here and not at the start, so that an error is that of an item."""
        if self._made is None:
            os.chdir(self._folder)
            for name, value in self._variables.items():
                os.environ.setdefault(name, value)
            self._made = self._make_work()
        return self._made


@final
class _Function(_Actor):
    def begin(self) -> None:
        pass

    def work(self, item: Any) -> Any:
        return self._work()(item)


@final
class _Server(_Actor):
    async def begin(self) -> None:
        pass

    async def work(self, item: Any) -> Any:
        return await asyncio.wrap_future(self._work().submit(item))
