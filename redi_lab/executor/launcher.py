"""Where workers run, by the setting `launcher.address`: on this machine, or on a Ray cluster.

    crew = Crew(starter(None, make_work, lambda number: {"OMP_NUM_THREADS": "4"}), num_workers=2)

Ray is imported for a cluster alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from redi_lab.executor.crew import Worker
from redi_lab.executor.local import ProcessWorker


def starter(
    address: str | None,
    make_work: Callable[[], Callable[[Any], Any]],
    environment: Callable[[int], Mapping[str, str]],
    gpus: int | None = 0,
    key: str = "",
) -> Callable[[int], Worker]:
    """What starts workers that do one item at a time.

    Args:
        address: of a Ray cluster; None: processes of this machine.
        make_work: makes the function that does an item, once, in the worker; see `ProcessWorker`.
        environment: further variables of a process of this machine, by its number.
        gpus: that a worker of the cluster has to itself; None: one where there are any.
        key: setting that asks for them, for the message.

    Raises:
        UserError: the cluster cannot be reached, or has too few GPUs on each machine.
    """
    if address is None:
        return lambda number: ProcessWorker(make_work, environment(number))
    from redi_lab.executor import cluster

    cluster.connect(address)
    wanted = min(1, cluster.max_gpus()) if gpus is None else gpus
    cluster.check_gpus(wanted, key)
    return lambda _: cluster.ActorWorker(make_work, wanted)
