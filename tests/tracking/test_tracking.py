"""The logger, its background upload and `upload` against a real sqlite store and against stores that fail."""

from __future__ import annotations

import logging
import math
import os
import socket
import subprocess
import sys
import time
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from redi_lab.errors import UserError
from redi_lab.tracking.journal import read_records
from redi_lab.tracking.logger import ResilientMLflowLogger
from redi_lab.tracking.parent import parent_run
from redi_lab.tracking.state import load_state
from redi_lab.tracking.store import MlflowStore, StoreError, mlflow_key, set_environment, sqlite_path
from redi_lab.tracking.upload import upload

REPOSITORY = Path(__file__).parents[2]
LONG = 3600.0  # no flush before finalize


@pytest.fixture
def dead_uri(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A loopback address that refuses connections for as long as the test runs."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as bound:  # bound but not listening: no other process can take the port
        bound.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"


def client(uri: str) -> Any:
    set_environment()
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def history(uri: str, run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in client(uri).get_metric_history(run_id, name))


def test_a_run_arrives_complete(tracking_uri: str, tmp_path: Path) -> None:
    logger = ResilientMLflowLogger(tracking_uri, "complete", "redi", tmp_path / "run", tags={"stage": "train"})
    logger.log_hyperparams({"loss": {"name": "redi", "alpha": 0.8}, "seed": 42})
    logger.log_config("seed: 42\n")
    logger.log_dataset("arithmetic", "ab" * 32, "embedded", 2048)
    logger.log_environment()
    for step in range(5):
        logger.log_metrics({"train/loss": 1.0 / (step + 1)}, step)
    logger.finalize("success")
    assert logger.is_complete
    assert logger.version is not None
    run = client(tracking_uri).get_run(logger.version)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"loss.name": "redi", "loss.alpha": "0.8", "seed": "42"}
    assert run.data.tags["stage"] == "train"
    assert "version.torch" in run.data.tags
    assert history(tracking_uri, logger.version, "train/loss") == [(step, 1.0 / (step + 1)) for step in range(5)]
    [inputs] = run.inputs.dataset_inputs
    assert inputs.dataset.digest == ("ab" * 32)[:36]
    assert inputs.dataset.profile == f'{{"num_rows": 2048, "digest": "{"ab" * 32}"}}'
    names = {artifact.path for artifact in client(tracking_uri).list_artifacts(logger.version)}
    assert names == {"config.yaml", "environment.txt"}
    assert "torch==" in (tmp_path / "run" / "environment.txt").read_text()


def test_nothing_of_the_environment_is_recorded(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    logger = ResilientMLflowLogger(tracking_uri, "secrets", "run", tmp_path)
    logger.log_environment()
    logger.finalize("success")
    assert logger.version is not None
    assert "hf_very_secret" not in str(client(tracking_uri).get_run(logger.version).to_dictionary())
    assert not [path for path in tmp_path.iterdir() if b"hf_very_secret" in path.read_bytes()]


def test_metrics_arrive_while_the_run_goes_on(tracking_uri: str, tmp_path: Path) -> None:
    logger = ResilientMLflowLogger(tracking_uri, "live", "run", tmp_path, flush_seconds=0.05)
    logger.log_metrics({"loss": 1.0}, 0)
    deadline = time.monotonic() + 20
    while load_state(tmp_path).uploaded_lines == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert logger.version is not None
    assert history(tracking_uri, logger.version, "loss") == [(0, 1.0)]
    logger.finalize("success")


def test_nan_infinity_odd_names_and_many_metrics(tracking_uri: str, tmp_path: Path) -> None:
    logger = ResilientMLflowLogger(tracking_uri, "odd", "run", tmp_path, flush_seconds=LONG)
    logger.log_metrics({"nan": math.nan, "inf": math.inf, "pass@1": 0.5, "x" * 300: 1.0}, 1)
    logger.log_metrics({f"m{index}": index for index in range(1003)}, 2)
    logger.log_metrics({"last": 1.0}, 3)
    logger.finalize("success")
    assert logger.version is not None
    metrics = client(tracking_uri).get_run(logger.version).data.metrics
    assert len(metrics) == 4 + 1003 + 1
    assert math.isnan(metrics["nan"])
    assert metrics["inf"] > 1e308
    assert metrics["pass_1"] == 0.5
    assert metrics["m1002"] == 1002
    assert logger.is_complete


def test_long_and_many_params(tracking_uri: str, tmp_path: Path) -> None:
    logger = ResilientMLflowLogger(tracking_uri, "params", "run", tmp_path, flush_seconds=LONG)
    many = {f"p{index}": index for index in range(150)}
    logger.log_hyperparams(Namespace(**many, **{"k" * 300: "v", "long": "y" * 7000}))
    logger.finalize("success")
    assert logger.version is not None
    params = client(tracking_uri).get_run(logger.version).data.params
    assert len(params) == 152
    assert params["long"] == "y" * 5999 + "…"
    assert params[mlflow_key("k" * 300)] == "v"


def test_changed_params_keep_their_first_value_with_a_warning(
    tracking_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for steps in (10, 20):
        logger = ResilientMLflowLogger(tracking_uri, "params", "run", tmp_path, flush_seconds=LONG)
        logger.log_hyperparams({"steps": steps, "seed": 1})
        logger.finalize("success")
    assert "params steps changed" in caplog.text
    assert logger.version is not None
    assert client(tracking_uri).get_run(logger.version).data.params == {"steps": "10", "seed": "1"}
    assert logger.is_complete


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("train/mean_logps/chosen", "train/mean_logps/chosen"),
        ("pass@1", "pass_1"),
        ("/a//b", "a/b"),
        ("../x", "_x"),
        (".", "_"),
    ],
)
def test_mlflow_key(name: str, key: str) -> None:
    assert mlflow_key(name) == key


def test_long_keys_stay_distinct() -> None:
    keys = {mlflow_key("k" * 300 + end) for end in "ab"}
    assert len(keys) == 2
    assert all(len(key) == 250 for key in keys)


def test_a_second_logger_continues_the_run(tracking_uri: str, tmp_path: Path) -> None:
    ids = set()
    for step in (0, 1):
        logger = ResilientMLflowLogger(tracking_uri, "resume", "run", tmp_path, flush_seconds=LONG)
        logger.log_metrics({"loss": float(step)}, step)
        logger.finalize("success")
        assert logger.version is not None
        ids.add(logger.version)
    [run_id] = ids
    assert history(tracking_uri, run_id, "loss") == [(0, 0.0), (1, 1.0)]


def test_logging_after_finalize_reopens_the_run(tracking_uri: str, tmp_path: Path) -> None:
    logger = ResilientMLflowLogger(tracking_uri, "reopen", "run", tmp_path, flush_seconds=LONG)
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("success")
    logger.log_metrics({"eval/pass_at_1": 0.5}, 1)
    assert load_state(tmp_path).status == "RUNNING"
    logger.finalize("failed")
    assert logger.version is not None
    run = client(tracking_uri).get_run(logger.version)
    assert run.info.status == "FAILED"
    assert run.data.metrics == {"loss": 1.0, "eval/pass_at_1": 0.5}


def test_two_writers_of_one_folder_are_refused(tracking_uri: str, tmp_path: Path) -> None:
    logger = ResilientMLflowLogger(tracking_uri, "writers", "run", tmp_path, flush_seconds=LONG)
    with pytest.raises(UserError, match="is being written by another run"):
        ResilientMLflowLogger(tracking_uri, "writers", "run", tmp_path)
    with pytest.raises(UserError, match="is still being written"):
        upload(tmp_path)
    logger.finalize("success")


def test_a_store_that_is_down_at_creation_costs_one_warning(
    dead_uri: str, tracking_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "a run"
    logger = ResilientMLflowLogger(dead_uri, "down", "run", folder, flush_seconds=0.05)
    logger.log_hyperparams({"seed": 1})
    logger.log_config("seed: 1\n")
    for step in range(3):
        logger.log_metrics({"loss": float(step)}, step)
        time.sleep(0.1)
    logger.finalize("success")
    assert logger.version is None
    [failure, advice] = [
        record.getMessage()
        for record in caplog.records
        if record.levelno == logging.WARNING and record.name.startswith("redi_lab")
    ]
    assert f"MLflow store {dead_uri} fails" in failure
    assert f"redi-lab upload '{folder}'" in advice
    assert load_state(folder).uploaded_lines == 0
    assert len(list(read_records(folder / "metrics.jsonl"))) == 3

    with pytest.raises(UserError, match="redi-lab upload"):
        upload(folder)
    report = upload(folder, tracking_uri)
    assert (report.lines, report.items) == (3, 2)
    assert history(tracking_uri, report.run_id, "loss") == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert client(tracking_uri).get_run(report.run_id).info.status == "FINISHED"
    again = upload(folder)
    assert (again.run_id, again.lines, again.items) == (report.run_id, 0, 0)


def test_a_store_that_dies_mid_run_is_completed_exactly_once(
    tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The second batch arrives but its confirmation is lost; everything after that fails."""
    real, calls = MlflowStore.log_metrics, []

    def dying(self: MlflowStore, run_id: str, records: Any) -> None:
        calls.append(len(records))
        if len(calls) <= 2:
            real(self, run_id, records)
        if len(calls) >= 2:
            raise StoreError("disk I/O error")

    logger = ResilientMLflowLogger(tracking_uri, "dies", "run", tmp_path, flush_seconds=LONG)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowStore, "log_metrics", dying)
        logger.log_metrics({f"a{index}": 1.0 for index in range(600)}, 0)
        logger.log_metrics({f"a{index}": 2.0 for index in range(600)}, 1)
        logger.log_metrics({f"a{index}": 3.0 for index in range(600)}, 2)
        logger.finalize("success")
    assert calls == [1, 1]
    assert load_state(tmp_path).uploaded_lines == 1
    assert "disk I/O error" in caplog.text
    assert not logger.is_complete
    report = upload(tmp_path)
    assert report.lines == 2
    assert history(tracking_uri, report.run_id, "a0") == [(0, 1.0), (1, 2.0), (2, 3.0)]
    assert report.run_id == logger.version
    assert upload(tmp_path).lines == 0


def test_a_database_that_is_replaced_mid_run_is_noticed(
    tracking_uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """SQLite writes into a deleted file without an error, so metrics would be lost in silence."""
    database = tmp_path / "copy.db"
    original = sqlite_path(tracking_uri)
    assert original is not None
    database.write_bytes(original.read_bytes())
    logger = ResilientMLflowLogger(f"sqlite:///{database}", "replaced", "run", tmp_path / "run", flush_seconds=LONG)
    logger.log_metrics({"loss": 1.0}, 0)
    database.rename(tmp_path / "gone.db")
    logger.finalize("success")
    assert str(database) in caplog.text
    assert not logger.is_complete
    report = upload(tmp_path / "run", tracking_uri)
    assert history(tracking_uri, report.run_id, "loss") == [(0, 1.0)]


def test_a_run_deleted_from_the_store_is_uploaded_anew(tracking_uri: str, tmp_path: Path) -> None:
    logger = ResilientMLflowLogger(tracking_uri, "deleted", "run", tmp_path, flush_seconds=LONG)
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("success")
    client(tracking_uri).delete_run(logger.version)
    report = upload(tmp_path)
    assert report.run_id != logger.version
    assert report.lines == 1
    assert history(tracking_uri, report.run_id, "loss") == [(0, 1.0)]


def test_a_run_whose_creation_was_not_confirmed_is_not_created_twice(tracking_uri: str, tmp_path: Path) -> None:
    logger = ResilientMLflowLogger(tracking_uri, "unconfirmed", "run", tmp_path, flush_seconds=LONG)
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("success")
    state = load_state(tmp_path)
    state.run_id, state.creating = None, True
    state.uploaded_lines = state.uploaded_bytes = 0
    state.save(tmp_path)
    report = upload(tmp_path)
    assert report.run_id == logger.version
    assert history(tracking_uri, report.run_id, "loss") == [(0, 1.0)]


def test_a_slow_store_does_not_slow_logging(tracking_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = MlflowStore.log_metrics

    def slow(self: MlflowStore, run_id: str, records: Any) -> None:
        time.sleep(1.5)
        real(self, run_id, records)

    monkeypatch.setattr(MlflowStore, "log_metrics", slow)
    logger = ResilientMLflowLogger(tracking_uri, "slow", "run", tmp_path, flush_seconds=0.01)
    logger.log_metrics({"loss": 0.0}, 0)
    time.sleep(0.2)  # the upload is under way
    start = time.monotonic()
    for step in range(1, 201):
        logger.log_metrics({"loss": float(step)}, step)
    assert time.monotonic() - start < 1.0
    logger.finalize("success")
    assert logger.version is not None
    assert len(history(tracking_uri, logger.version, "loss")) == 201


def test_a_killed_run_is_completed_as_killed(tracking_uri: str, tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\n"
        "from redi_lab.tracking.logger import ResilientMLflowLogger\n"
        "logger = ResilientMLflowLogger(sys.argv[1], 'killed', 'run', sys.argv[2], flush_seconds=3600.0)\n"
        "logger.log_metrics({'loss': 1.0}, 0)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, tracking_uri, str(tmp_path)], cwd=REPOSITORY, timeout=120, check=False
    )
    assert done.returncode == -9
    report = upload(tmp_path)
    assert report.lines == 1
    assert client(tracking_uri).get_run(report.run_id).info.status == "KILLED"


def test_missing_artifacts_are_reported_not_dropped(tracking_uri: str, tmp_path: Path) -> None:
    logger = ResilientMLflowLogger(tracking_uri, "artifacts", "run", tmp_path / "run", flush_seconds=LONG)
    with pytest.raises(FileNotFoundError, match="absent"):
        logger.log_artifact(tmp_path / "absent")
    report_file = tmp_path / "report.txt"
    report_file.write_text("first")
    logger.log_artifact(report_file)
    report_file.unlink()
    logger.finalize("success")
    assert not logger.is_complete
    assert upload(tmp_path / "run").missing_artifacts == (str(report_file),)
    report_file.write_text("back")
    report = upload(tmp_path / "run")
    assert (report.items, report.missing_artifacts) == (1, ())


def test_upload_of_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"mlflow\.json does not exist"):
        upload(tmp_path)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mlflow.json").write_text("{}")
    with pytest.raises(UserError, match="is damaged"):
        upload(tmp_path)


def test_stages_are_nested_under_their_command(tracking_uri: str, tmp_path: Path) -> None:
    with parent_run(tracking_uri, "nested", "demo", {"command": "demo"}) as parent_id:
        assert parent_id is not None
        logger = ResilientMLflowLogger(tracking_uri, "nested", "sft", tmp_path, parent_run_id=parent_id)
        logger.finalize("success")
    parent = client(tracking_uri).get_run(parent_id)
    assert (parent.info.status, parent.data.tags["command"]) == ("FINISHED", "demo")
    assert client(tracking_uri).get_run(logger.version).data.tags["mlflow.parentRunId"] == parent_id


@pytest.mark.parametrize(("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")])
def test_a_parent_run_tells_how_its_command_ended(tracking_uri: str, error: type[BaseException], status: str) -> None:
    ids: list[str | None] = []

    def command() -> None:
        with parent_run(tracking_uri, "nested", "demo") as parent_id:
            ids.append(parent_id)
            raise error

    with pytest.raises(error):
        command()
    assert client(tracking_uri).get_run(ids[0]).info.status == status


def test_a_parent_run_without_a_store(dead_uri: str, caplog: pytest.LogCaptureFixture) -> None:
    with parent_run(dead_uri, "nested", "demo") as parent_id:
        assert parent_id is None
    assert f"MLflow store {dead_uri} fails" in caplog.text


def test_a_relative_database_and_a_bad_interval_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the database an absolute path"):
        ResilientMLflowLogger("sqlite:///outputs/mlflow.db", "x", "run", tmp_path / "run")
    with pytest.raises(UserError, match="flush_seconds must be positive"):
        ResilientMLflowLogger("http://127.0.0.1:1", "x", "run", tmp_path / "run", flush_seconds=0)
    assert not (tmp_path / "run").exists()


def test_artifacts_lie_beside_the_database(tracking_uri: str) -> None:
    database = sqlite_path(tracking_uri)
    assert database is not None
    experiment = client(tracking_uri).get_experiment_by_name("warm-up")
    assert experiment.artifact_location == str(database.parent / "mlflow-artifacts")


@pytest.mark.parametrize("given", [None, "5"])
def test_telemetry_is_off_and_retries_are_bounded_before_mlflow_is_imported(given: str | None, tmp_path: Path) -> None:
    """In a fresh interpreter that forbids every connection; the user's own setting wins."""
    script = (
        "import os, socket, sys\n"
        "def forbid(*arguments): raise AssertionError(f'network: {arguments}')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = forbid\n"
        "from redi_lab.tracking.store import MlflowStore, set_environment\n"
        "assert 'mlflow' not in sys.modules\n"
        "set_environment()\n"
        "from mlflow.telemetry.client import get_telemetry_client\n"
        "assert get_telemetry_client() is None\n"
        "print(os.environ['MLFLOW_HTTP_REQUEST_MAX_RETRIES'])\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW", "DO_NOT"))}
    if given is not None:
        environment["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] = given
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, cwd=REPOSITORY,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [given or "1"]


@pytest.mark.slow
def test_two_processes_may_create_one_database_at_the_same_moment(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from redi_lab.tracking.store import MlflowStore\n"
        "store = MlflowStore(sys.argv[1], 'shared')\n"
        "print(store.experiment_id, store.create_run('run', sys.argv[2]))\n"
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
