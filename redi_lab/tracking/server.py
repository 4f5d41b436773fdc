"""The MLflow UI, bound to the loopback address and ended together with all of its children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress

from redi_lab.errors import RunInterruptedError, UserError, interruptible
from redi_lab.tracking.store import RUNS_VIEW, MlflowStore, StoreError, set_environment, sqlite_path

_GRACE_SECONDS = 10.0
TRAINING_MODE = "workflowType=machine_learning"
"""In an address, opens MLflow's pages for training rather than those for GenAI."""


def ui_command(tracking_uri: str, port: int = 5000) -> list[str]:
    """The command of a single-worker MLflow server for a local database, reachable from this machine only.

    Args:
        tracking_uri: `sqlite:////absolute/path/mlflow.db`.
        port: TCP port on 127.0.0.1.

    Raises:
        UserError: the URI is not a local database: a remote server has its own UI at its address.
    """
    database = sqlite_path(tracking_uri)
    if database is None:
        raise UserError(f"{tracking_uri} is not a local database: open that address itself in a browser")
    artifacts = str(database.parent / "mlflow-artifacts")
    store = ["--backend-store-uri", tracking_uri, "--default-artifact-root", artifacts]
    network = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    # Experiments name their artifact folders; the proxy would only add a folder to the working directory.
    return [sys.executable, "-m", "mlflow", "server", *store, "--no-serve-artifacts", *network]


def runs_url(tracking_uri: str, experiment_name: str, port: int = 5000) -> str:
    """Address of the experiment's runs with their scores; at the bare address MLflow shows none, in its GenAI mode.

    Raises:
        UserError: the port is in use, or the store cannot be opened.
    """
    _check_free(port)
    try:
        experiment = MlflowStore(tracking_uri, experiment_name).experiment_id
    except StoreError as error:
        raise UserError(f"{tracking_uri}: {error}") from error
    view = f"{TRAINING_MODE}&viewStateShareKey={RUNS_VIEW}"
    return f"http://127.0.0.1:{port}/#/experiments/{experiment}/runs?{view}"


def serve_ui(tracking_uri: str, port: int = 5000) -> int:
    """Run the MLflow UI in the foreground until Ctrl-C or SIGTERM; then end it with its workers.

    Returns:
        The server's exit status; 0 after Ctrl-C or SIGTERM.

    Raises:
        UserError: see `ui_command`.
    """
    command = ui_command(tracking_uri, port)
    set_environment()
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}  # job runners are never used here
    with interruptible(), subprocess.Popen(command, env=environment, start_new_session=True) as server:
        try:
            return server.wait()
        except RunInterruptedError:
            return 0
        finally:
            _end_group(server)


def _check_free(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a port that lingers is free
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise UserError(
                f"port={port}: cannot be used on 127.0.0.1 ({error.strerror}); another UI may be running there, choose"
                f" another: redi-lab ui port={port % 65535 + 1}"
            ) from error


def _end_group(server: subprocess.Popen[bytes]) -> None:
    """End the server and its workers: the leader's number is that of the group, and children may outlive it."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(timeout=_GRACE_SECONDS)
