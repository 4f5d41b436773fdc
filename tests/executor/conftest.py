"""A Ray cluster of two nodes on this machine, bound to 127.0.0.1, of which tests kill one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, final

import pytest

from tests.generation.conftest import checkpoint, mischief, python  # noqa: F401


@final
@dataclass
class TwoNodes:
    """The cluster; the second node has two cores, and the first one."""

    cluster: Any
    second: Any

    @property
    def address(self) -> str:
        address: str = self.cluster.address
        return address

    def kill_second(self) -> None:
        """Without a farewell."""
        self.cluster.remove_node(self.second, allow_graceful=False)


_SMALL = {"node_ip_address": "127.0.0.1", "object_store_memory": 80 * 2**20}


@pytest.fixture
def two_nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[TwoNodes]:
    """Starts and ends within 20 s."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # else 127.0.0.1 becomes the machine's own address
    ray = pytest.importorskip("ray", reason="needs the extra ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False, **_SMALL}
    )
    try:
        yield TwoNodes(cluster, cluster.add_node(num_cpus=2, num_gpus=0, **_SMALL))
    finally:
        ray.shutdown()
        cluster.shutdown()
