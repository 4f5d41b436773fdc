"""A logger with a store, and what the store says of it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from redi_lab.tracking.logger import RunLogger
from redi_lab.tracking.store import import_client

NewLogger = Callable[..., RunLogger]


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory, new_mlflow_database: Callable[[Path], Path]) -> str:
    """One database for all tests of tracking, which write to it."""
    return f"sqlite:///{new_mlflow_database(tmp_path_factory.mktemp('tracking'))}"


@pytest.fixture
def new_logger(tracking_uri: str, tmp_path: Path) -> NewLogger:
    """Opens a logger of the test's own folder that mirrors at its start and its end alone."""

    defaults: dict[str, Any] = {"tracking_uri": tracking_uri, "flush_seconds": 3600.0}

    def opened(folder: Path = tmp_path, **options: Any) -> RunLogger:
        return RunLogger(folder, "run", **defaults | options)

    return opened


def client(uri: str) -> Any:
    return import_client()(tracking_uri=uri)


def history(uri: str, run_id: str | None, name: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client(uri).get_metric_history(run_id, name))


@pytest.fixture
def dead_uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A loopback address that refuses connections for as long as the test runs."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as bound:  # bound but not listening: no other process can take the port
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
