"""What a logger leaves in its folder, and in a store that works."""

from __future__ import annotations

import json
import math
from argparse import Namespace
from pathlib import Path

import pytest

from redi_lab.errors import UserError
from redi_lab.tracking.environment import environment_tags, environment_text
from redi_lab.tracking.logger import RunLogger
from redi_lab.tracking.mirror import upload
from redi_lab.tracking.state import LOCK, load_record
from redi_lab.tracking.store import mlflow_key
from tests.tracking.conftest import NewLogger, client, history


def test_a_run_arrives_complete(new_logger: NewLogger, tracking_uri: str, tmp_path: Path) -> None:
    logger = new_logger(tmp_path / "run", experiment="complete", tags={"stage": "train"}, flush_seconds=0.01)
    logger.log_hyperparams({"loss": {"name": "redi", "alpha": 0.8}, "seed": 42})
    logger.log_text("config.yaml", "seed: 42\n")
    for step in range(5):
        logger.log_metrics({"train/loss": 1.0 / (step + 1)}, step)
    logger.finalize("success")
    assert logger.is_complete
    run = client(tracking_uri).get_run(logger.version)
    assert (run.info.status, run.info.run_name) == ("FINISHED", "run")
    assert run.data.params == {"loss.name": "redi", "loss.alpha": "0.8", "seed": "42"}
    assert run.data.tags["stage"] == "train"
    assert history(tracking_uri, logger.version, "train/loss") == [(step, 1.0 / (step + 1)) for step in range(5)]
    names = {artifact.path for artifact in client(tracking_uri).list_artifacts(logger.version)}
    assert names == {"config.yaml"}
    report = upload(tmp_path / "run")
    assert (report.lines, report.items) == (0, 0)  # a second mirroring finds everything there


def test_without_a_store_the_record_is_the_same_and_can_be_uploaded(tracking_uri: str, tmp_path: Path) -> None:
    logger = RunLogger(tmp_path, "run", experiment="later")
    logger.log_hyperparams({"seed": 1})
    logger.log_metrics({"loss": 1.0}, 0)
    logger.save()
    logger.finalize("success")
    assert (logger.version, logger.is_complete) == (None, True)
    assert {path.name for path in tmp_path.iterdir()} == {"record.json", "metrics.jsonl", LOCK}
    with pytest.raises(UserError, match="tracking_uri=URI"):
        upload(tmp_path)
    report = upload(tmp_path, tracking_uri)
    assert history(tracking_uri, report.run_id, "loss") == [(0, 1.0)]
    assert client(tracking_uri).get_run(report.run_id).data.params == {"seed": "1"}


def test_nothing_of_the_environment_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_very_secret")
    assert "version.torch" in environment_tags()
    assert "\ntorch==" in environment_text()
    assert "hf_very_secret" not in f"{environment_tags()} {environment_text()}"


def test_nan_infinity_odd_names_and_many_metrics(new_logger: NewLogger, tracking_uri: str) -> None:
    logger = new_logger()
    logger.log_metrics({"nan": math.nan, "inf": math.inf, "pass@1": 0.5, "x" * 300: 1.0}, 1)
    logger.log_metrics({f"m{index}": index for index in range(1003)}, 2)
    logger.log_metrics({"last": 1.0}, 3)
    logger.finalize("success")
    metrics = client(tracking_uri).get_run(logger.version).data.metrics
    assert len(metrics) == 4 + 1003 + 1
    assert math.isnan(metrics["nan"])
    assert metrics["inf"] > 1e308
    assert metrics["pass_1"] == 0.5
    assert metrics["m1002"] == 1002
    assert logger.is_complete


def test_long_and_many_params_and_long_tags(new_logger: NewLogger, tracking_uri: str) -> None:
    logger = new_logger(tags={"command": "z" * 9000})
    many = {f"p{index}": index for index in range(150)}
    logger.log_hyperparams(Namespace(**many, **{"k" * 300: "v", "long": "y" * 7000}))
    logger.finalize("success")
    data = client(tracking_uri).get_run(logger.version).data
    assert len(data.params) == 152
    assert data.params["long"] == "y" * 5999 + "…"
    assert data.params[mlflow_key("k" * 300)] == "v"
    assert data.tags["command"] == "z" * 7999 + "…"


def test_changed_params_keep_their_first_value_with_a_warning(
    new_logger: NewLogger, tracking_uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    for steps in (10, 20):
        logger = new_logger()
        logger.log_hyperparams({"steps": steps, "seed": 1})
        logger.finalize("success")
    assert "params steps changed" in caplog.text
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


def test_a_second_logger_continues_the_run(new_logger: NewLogger, tracking_uri: str) -> None:
    ids = set()
    for step in (0, 1):
        logger = new_logger()
        logger.log_metrics({"loss": float(step)}, step)
        logger.finalize("success")
        ids.add(logger.version)
    [run_id] = ids
    assert history(tracking_uri, run_id, "loss") == [(0, 0.0), (1, 1.0)]


def test_another_experiment_gets_the_whole_run(new_logger: NewLogger, tracking_uri: str) -> None:
    first = new_logger(experiment="one")
    first.log_metrics({"loss": 1.0}, 0)
    first.finalize("success")
    before = first.version
    second = new_logger(experiment="two")
    second.finalize("success")
    assert second.version != before
    assert history(tracking_uri, second.version, "loss") == [(0, 1.0)]


def test_logging_after_finalize_reopens_the_run(new_logger: NewLogger, tracking_uri: str, tmp_path: Path) -> None:
    logger = new_logger()
    logger.log_metrics({"loss": 1.0}, 0)
    logger.finalize("success")
    logger.log_metrics({"eval/pass_at_1": 0.5}, 1)
    assert load_record(tmp_path).status == "RUNNING"
    logger.finalize("failed")
    run = client(tracking_uri).get_run(logger.version)
    assert run.info.status == "FAILED"
    assert run.data.metrics == {"loss": 1.0, "eval/pass_at_1": 0.5}


def test_two_writers_of_one_folder_are_refused(new_logger: NewLogger, tmp_path: Path) -> None:
    logger = new_logger()
    with pytest.raises(UserError, match="is being written by another run"):
        new_logger()
    with pytest.raises(UserError, match="is still being written"):
        upload(tmp_path)
    logger.finalize("success")
    new_logger().finalize("success")


def test_an_artifact_that_changed_is_sent_again(new_logger: NewLogger, tracking_uri: str, tmp_path: Path) -> None:
    for text in ("first", "second"):
        logger = new_logger()
        logger.log_text("config.yaml", text)
        logger.finalize("success")
    artifacts = client(tracking_uri).get_run(logger.version).info.artifact_uri
    assert (Path(artifacts) / "config.yaml").read_text() == "second"
    with pytest.raises(FileNotFoundError, match="absent"):
        logger.log_artifact(tmp_path / "absent")


def test_a_relative_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="give the database an absolute path"):
        RunLogger(tmp_path / "run", "run", tracking_uri="sqlite:///outputs/mlflow.db")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["record.json", "mlflow.json"])
def test_a_damaged_record_is_named(name: str, new_logger: NewLogger, tmp_path: Path) -> None:
    new_logger().finalize("success")
    (tmp_path / name).write_text(json.dumps({"x": 1}))
    with pytest.raises(UserError, match=f"{name} is damaged"):
        new_logger()
    with pytest.raises(UserError, match=f"{name} is damaged"):
        upload(tmp_path)


def test_upload_of_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"record\.json does not exist"):
        upload(tmp_path)
    assert list(tmp_path.iterdir()) == []
