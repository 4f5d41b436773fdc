"""Stores that fail while a run is tracked: training neither waits nor ends, and nothing is lost."""

from __future__ import annotations

import ctypes
import logging
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from redi_lab.errors import UserError
from redi_lab.tracking import mirror
from redi_lab.tracking.journal import read_records
from redi_lab.tracking.logger import RunLogger
from redi_lab.tracking.mirror import upload
from redi_lab.tracking.server import ui_command
from redi_lab.tracking.state import load_state
from redi_lab.tracking.store import import_client

STEPS = 50


@pytest.fixture(autouse=True)
def little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror, "PATIENCE_SECONDS", 0.2)


@pytest.fixture
def another(mlflow_database: Path, tmp_path: Path) -> str:
    """A second store."""
    return uri_of(Path(shutil.copy(mlflow_database, tmp_path / "another.db")))


def uri_of(database: Path) -> str:
    return f"sqlite:///{database}"


def train(uri: str, folder: Path, in_the_middle: Callable[[], None] = lambda: None) -> RunLogger:
    """A training that logs."""
    logger = RunLogger(folder, "run", tracking_uri=uri, flush_seconds=0.05)
    logger.log_hyperparams({"seed": 1})
    for step in range(STEPS):
        logger.log_metrics({"loss": 1.0 / (step + 1)}, step)
        if step == STEPS // 2:
            in_the_middle()
    logger.finalize("success")
    assert [record.step for record in read_records(folder / "metrics.jsonl")] == list(range(STEPS))
    return logger


def assert_complete(uri: str, run_id: str | None) -> None:
    client = import_client()(tracking_uri=uri)
    points = client.get_metric_history(run_id, "loss")
    assert sorted((point.step, point.value) for point in points) == [(s, 1.0 / (s + 1)) for s in range(STEPS)]
    run = client.get_run(run_id)
    assert (run.info.status, run.data.params) == ("FINISHED", {"seed": "1"})


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def wait_for_uploads() -> None:
    """Threads that `finalize` left behind in a slow call write on until that ends."""
    for thread in threading.enumerate():
        if thread.name.startswith("redi-lab-mlflow"):
            thread.join()


@contextmanager
def locked(database: Path) -> Iterator[None]:
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield


def test_a_locked_database(database: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """sqlite waits for the lock, and MLflow asks several times: the run is over before the first answer."""
    with locked(database):
        train(f"{uri_of(database)}?timeout=1", tmp_path / "run")
        state = load_state(tmp_path / "run")
        assert state is not None
        assert (state.run_id, state.offset) == (None, 0)
    (advice,) = warnings_of(caplog)
    assert advice.endswith(f"redi-lab upload {tmp_path / 'run'}")
    wait_for_uploads()  # the lock is gone: what was left behind arrives by itself
    assert_complete(uri_of(database), upload(tmp_path / "run").run_id)


def test_a_database_that_is_deleted_in_the_middle(
    database: Path, another: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    train(uri_of(database), tmp_path / "run", database.unlink)
    wait_for_uploads()
    words = ("FileNotFoundError", "readonly database")  # before a call, or in the middle of one
    assert any(any(word in text for word in words) and str(database) in text for text in warnings_of(caplog))
    report = upload(tmp_path / "run", another)
    assert report.lines == STEPS
    assert_complete(report.tracking_uri, report.run_id)


@contextmanager
def read_only(database: Path) -> Iterator[None]:
    """Nobody may write the database and its folder, not even root: the kernel is asked to hold it to the modes, too."""
    libc, header = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0)  # _LINUX_CAPABILITY_VERSION_3, this thread
    before, without = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == libc.capget(header, without) == 0
    without[0] &= ~(1 << 1)  # CAP_DAC_OVERRIDE, of the effective set; threads inherit it
    modes = {path: path.stat().st_mode for path in (database, database.parent)}
    try:
        for path in modes:
            path.chmod(0o555)
        assert libc.capset(header, without) == 0
        yield
    finally:
        assert libc.capset(header, before) == 0
        for path, mode in modes.items():
            path.chmod(mode)


def test_a_database_that_cannot_be_written(database: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with read_only(database):
        train(uri_of(database), tmp_path / "run")
    wait_for_uploads()
    assert sum("Permission denied" in text for text in warnings_of(caplog)) == 1
    assert_complete(uri_of(database), upload(tmp_path / "run").run_id)


class Gate:
    """Lets nobody through before it is opened."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def guard(self, action: Callable[..., Any]) -> Callable[..., Any]:
        def guarded(*arguments: Any, **options: Any) -> Any:
            self.event.wait()
            return action(*arguments, **options)

        return guarded


@pytest.mark.parametrize("slow", ["create_run", "log_batch", "set_terminated"])
def test_a_store_that_answers_late(slow: str, database: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls of one kind are answered only when everything is over: had anybody waited for one, this would hang."""
    gate = Gate()
    monkeypatch.setattr(MlflowClient, slow, gate.guard(getattr(MlflowClient, slow)))
    logger = train(uri_of(database), tmp_path / "run")
    assert not logger.is_complete
    gate.event.set()
    wait_for_uploads()
    assert_complete(uri_of(database), logger.version)


def test_a_server_that_takes_calls_and_never_answers(
    another: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        logger = train(uri, tmp_path / "run")
        assert logger.version is None
        wait_for_uploads()
    assert all(uri in text for text in warnings_of(caplog))
    report = upload(tmp_path / "run", another)
    assert_complete(report.tracking_uri, report.run_id)


@contextmanager
def served(database: Path, port: int) -> Iterator[Callable[[], None]]:
    """A real MLflow server, as `redi-lab ui` starts it; the function kills it, workers included."""
    address = f"http://127.0.0.1:{port}"
    log = (database.parent / "server.log").open("w")
    server = subprocess.Popen(
        ui_command(uri_of(database), port), stdout=log, stderr=subprocess.STDOUT, start_new_session=True
    )

    def kill() -> None:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()

    try:
        deadline = time.monotonic() + 120
        while not _answers(address):
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield kill
    finally:
        kill()
        log.close()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        number: int = server.getsockname()[1]
    return number


@pytest.mark.slow
@pytest.mark.parametrize("comes_back", [True, False])
def test_a_server_that_is_killed_in_the_middle(
    comes_back: bool, database: Path, port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setattr(mirror, "PATIENCE_SECONDS", 60.0)
    uri = f"http://127.0.0.1:{port}"
    with ExitStack() as servers:
        kill = servers.enter_context(served(database, port))

        def in_the_middle() -> None:
            kill()
            if comes_back:
                servers.enter_context(served(database, port))

        logger = train(uri, tmp_path / "run", in_the_middle)
        assert logger.is_complete == comes_back
    if not comes_back:
        with pytest.raises(UserError, match="once the store works, go on with: redi-lab upload"):
            upload(tmp_path / "run")
        with served(database, port):
            assert upload(tmp_path / "run").run_id == logger.version
    assert_complete(uri_of(database), logger.version)
