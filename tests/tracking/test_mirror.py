"""The mirror of a run: each thing arrives once, whatever failed before."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from redi_lab.cli import main
from redi_lab.errors import UserError
from redi_lab.tracking import mirror
from redi_lab.tracking.journal import read_records
from redi_lab.tracking.logger import RunLogger
from redi_lab.tracking.mirror import upload
from redi_lab.tracking.state import STATE_FILE, load_state
from redi_lab.tracking.store import set_environment, sqlite_path
from tests.conftest import REPOSITORY
from tests.tracking.conftest import NewLogger, client, history


def runs_of(uri: str, experiment: str) -> list[Any]:
    found = client(uri).get_experiment_by_name(experiment)
    return list(client(uri).search_runs([found.experiment_id]))


def failing_after(action: Callable[..., Any]) -> Callable[..., Any]:
    """As a store whose answers are lost."""

    def lost(*arguments: Any, **options: Any) -> None:
        action(*arguments, **options)
        raise OSError("disk I/O error")

    return lost


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_artifact", "set_terminated"])
def test_a_lost_answer_leaves_one_copy(
    call: str, new_logger: NewLogger, tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store does what it was asked, and nobody hears of it: as if the mirror were killed behind the call."""
    monkeypatch.setattr(mirror, "MAX_METRICS_PER_CALL", 4)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, failing_after(getattr(MlflowClient, call)))
        logger = new_logger(experiment=f"lost {call}", tags={"stage": "train"})
        logger.log_hyperparams({"seed": 1})
        logger.log_text("config.yaml", "seed: 1\n")
        for step in range(3):
            logger.log_metrics({"a": step, "b": step, "c": step}, step)  # three lines, three calls
        logger.finalize("success")
    assert logger.is_complete == (call == "create_run")  # the next attempt found the run by its key
    report = upload(tmp_path)
    (run,) = runs_of(tracking_uri, f"lost {call}")
    assert run.info.run_id == report.run_id
    assert (run.info.status, run.data.params, run.data.tags["stage"]) == ("FINISHED", {"seed": "1"}, "train")
    assert history(tracking_uri, report.run_id, "a") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert [artifact.path for artifact in client(tracking_uri).list_artifacts(report.run_id)] == ["config.yaml"]
    again = upload(tmp_path)
    assert (again.run_id, again.lines, again.items) == (report.run_id, 0, 0)


def test_a_store_that_is_down_at_creation_costs_one_warning_and_one_advice(
    dead_uri: str, new_logger: NewLogger, tracking_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "a run"
    logger = new_logger(folder, experiment="down", tracking_uri=dead_uri, flush_seconds=0.01)
    logger.log_hyperparams({"seed": 1})
    logger.log_text("config.yaml", "seed: 1\n")
    for step in range(3):
        logger.log_metrics({"loss": float(step)}, step)
    logger.finalize("success")
    assert logger.version is None
    warnings = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING and "redi_lab" in r.name]
    assert [dead_uri in text for text in warnings] == [True, True]
    assert f"redi-lab upload '{folder}'" in warnings[-1]
    assert len(list(read_records(folder / "metrics.jsonl"))) == 3

    with pytest.raises(UserError, match="redi-lab upload"):
        upload(folder)
    report = upload(folder, tracking_uri)
    assert (report.lines, report.items) == (3, 2)
    assert history(tracking_uri, report.run_id, "loss") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert client(tracking_uri).get_run(report.run_id).info.status == "FINISHED"
    again = upload(folder)
    assert (again.run_id, again.lines, again.items) == (report.run_id, 0, 0)


def test_a_database_that_is_replaced_mid_run_is_noticed(
    new_logger: NewLogger, tracking_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite writes into a deleted file without an error, so metrics would be lost in silence."""
    database = tmp_path / "copy.db"
    original = sqlite_path(tracking_uri)
    assert original is not None
    database.write_bytes(original.read_bytes())
    logger = new_logger(tmp_path / "run", tracking_uri=f"sqlite:///{database}")
    logger.log_metrics({"loss": 1.0}, 0)
    database.rename(tmp_path / "gone.db")
    logger.finalize("success")
    assert str(database) in caplog.text
    assert not logger.is_complete
    report = upload(tmp_path / "run", tracking_uri)
    assert history(tracking_uri, report.run_id, "loss") == [(0, 1.0)]


def test_a_run_deleted_from_the_store_is_uploaded_anew(
    new_logger: NewLogger, tracking_uri: str, tmp_path: Path
) -> None:
    logger = new_logger()
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("success")
    before = logger.version
    client(tracking_uri).delete_run(before)
    report = upload(tmp_path)
    assert report.run_id != before
    assert report.lines == 1
    assert history(tracking_uri, report.run_id, "loss") == [(0, 1.0)]


def test_without_mlflow_json_the_run_is_found_by_its_key(
    new_logger: NewLogger, tracking_uri: str, tmp_path: Path
) -> None:
    logger = new_logger()
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("success")
    before = logger.version
    (tmp_path / STATE_FILE).unlink()
    report = upload(tmp_path, tracking_uri)
    assert report.run_id == before
    assert history(tracking_uri, report.run_id, "loss") == [(0, 1.0)]


def assert_was_killed(uri: str, folder: Path) -> None:
    report = upload(folder)
    assert report.lines == 1
    assert client(uri).get_run(report.run_id).info.status == "KILLED"


def test_a_killed_run_is_completed_as_killed(new_logger: NewLogger, tracking_uri: str, tmp_path: Path) -> None:
    """The files as they are in the middle of a run are what a kill leaves behind."""
    logger = new_logger(tmp_path / "running")
    logger.log_metrics({"loss": 1.0}, 0)
    shutil.copytree(tmp_path / "running", tmp_path / "killed")
    assert_was_killed(tracking_uri, tmp_path / "killed")
    logger.finalize("success")


@pytest.mark.slow
def test_a_run_that_is_really_killed(tracking_uri: str, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from redi_lab.tracking.logger import RunLogger\n"
        "logger = RunLogger(sys.argv[2], 'run', tracking_uri=sys.argv[1], flush_seconds=3600.0)\n"
        "logger.log_metrics({'loss': 1.0}, 0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", script, tracking_uri, str(tmp_path)]
    assert subprocess.run(command, cwd=REPOSITORY, check=False).returncode == -9
    assert_was_killed(tracking_uri, tmp_path)


def test_missing_artifacts_are_reported_not_dropped(new_logger: NewLogger, tmp_path: Path) -> None:
    logger = new_logger(tmp_path / "run")
    report_file = tmp_path / "report.txt"
    report_file.write_text("first")
    logger.log_artifact(report_file)
    report_file.unlink()
    logger.finalize("success")
    assert not logger.is_complete
    assert upload(tmp_path / "run").missing == (str(report_file),)
    report_file.write_text("back")
    report = upload(tmp_path / "run")
    assert (report.items, report.missing) == (1, ())


def test_a_run_is_nested_under_its_parent_in_the_parents_store_alone(
    new_logger: NewLogger, tracking_uri: str, mlflow_database: Path, tmp_path: Path
) -> None:
    parent = new_logger(tmp_path / "parent")
    child = new_logger(tmp_path / "child", parent=parent.version)
    for logger in (child, parent):
        logger.finalize("success")
    assert client(tracking_uri).get_run(child.version).data.tags["mlflow.parentRunId"] == parent.version
    another = f"sqlite:///{shutil.copy(mlflow_database, tmp_path / 'another.db')}"
    copied = client(another).get_run(upload(tmp_path / "child", another).run_id)
    assert "mlflow.parentRunId" not in copied.data.tags


def test_artifacts_lie_beside_the_database(tracking_uri: str) -> None:
    database = sqlite_path(tracking_uri)
    assert database is not None
    experiment = client(tracking_uri).get_experiment_by_name("redi_lab")
    assert experiment.artifact_location == str(database.parent / "mlflow-artifacts")


@pytest.mark.parametrize("given", [None, "5"])
def test_the_users_own_settings_of_mlflow_win(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", given)
    set_environment()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == (given or "1")


@pytest.mark.slow
def test_telemetry_is_off_before_mlflow_is_imported() -> None:
    """In a fresh interpreter that forbids every connection."""
    script = (
        "import socket, sys\n"
        "def forbid(*arguments): raise AssertionError(f'network: {arguments}')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = forbid\n"
        "from redi_lab.tracking.store import MlflowStore, set_environment\n"
        "assert 'mlflow' not in sys.modules\n"
        "set_environment()\n"
        "from mlflow.telemetry.client import get_telemetry_client\n"
        "assert get_telemetry_client() is None\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "DO_NOT"))}
    subprocess.run([sys.executable, "-c", script], env=environment, cwd=REPOSITORY, check=True)


@pytest.mark.slow
def test_two_processes_may_create_one_database_at_the_same_moment(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from redi_lab.tracking.store import MlflowStore\n"
        "store = MlflowStore(sys.argv[1], 'shared')\n"
        "print(store.experiment_id, store.client.create_run(store.experiment_id, run_name='run').info.run_id)\n"
    )
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    processes = [
        subprocess.Popen([sys.executable, "-c", script, uri, key], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for key in "ab"
    ]
    outputs = [process.communicate(timeout=200)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert outputs[0][0] == outputs[1][0]
    assert outputs[0][1] != outputs[1][1]


def test_metrics_arrive_while_the_run_goes_on(new_logger: NewLogger, tracking_uri: str, tmp_path: Path) -> None:
    """A first flush, and what was logged after it with the second one."""
    logger = new_logger(flush_seconds=0.01)
    for step in range(2):
        logger.log_metrics({"loss": float(step)}, step)
        while (state := load_state(tmp_path)) is None or state.offset < (tmp_path / "metrics.jsonl").stat().st_size:
            time.sleep(0.01)
        assert history(tracking_uri, logger.version, "loss") == [(s, float(s)) for s in range(step + 1)]
    logger.finalize("success")


def test_the_verb_reports_what_it_sent(tracking_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logger = RunLogger(tmp_path, "run")
    logger.log_metrics({"loss": 1.0}, 0)
    logger.log_text("config.yaml", "seed: 1\n")
    logger.finalize("success")
    (tmp_path / "config.yaml").unlink()
    main(["upload", str(tmp_path), f"tracking_uri={tracking_uri}"])
    state, said = load_state(tmp_path), capsys.readouterr().out
    assert state is not None
    assert f"Uploaded 1 lines of metrics and 0 other items to run {state.run_id}, {tracking_uri}" in said
    assert "Missing:    config.yaml" in said
