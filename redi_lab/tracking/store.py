"""The only code that talks to MLflow: a small store with bounded waits, idempotent writes and one kind of failure.

mlflow is imported on first use (one to two seconds). Everything here may raise `StoreError`, which callers survive.
Writing the same metrics (same times), params, tags or artifacts twice leaves one copy in the store.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import posixpath
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, final

import filelock

from redi_lab.errors import UserError
from redi_lab.tracking.journal import Record
from redi_lab.tracking.state import Dataset

MAX_METRICS_PER_CALL = 1000
MAX_PARAMS_PER_CALL = 100
MAX_KEY_LENGTH = 250
MAX_PARAM_LENGTH = 6000
MAX_TAG_LENGTH = 8000
MAX_DIGEST_LENGTH = 36
RUN_KEY_TAG = "redi_lab.key"
PARENT_TAG = "mlflow.parentRunId"
RUNS_VIEW = "redi_lab"
"""Key of the runs table that MLflow's UI shows with `viewStateShareKey`: stages, best first, with these columns."""
_VIEW_TAG = f"mlflow.sharedViewState.{RUNS_VIEW}"
_VIEW = json.dumps(
    {
        "searchFilter": "tags.`redi_lab.stage` LIKE '%'",  # a command's own run has no score
        "orderByKey": "metrics.`eval/pass_at_1`",  # by time of creation, MLflow would hide stages under their command
        "orderByAsc": False,
        "selectedColumns": ["metrics.`eval/pass_at_1`", "params.`objective`", "params.`optimizer.lr`"],
    }
)

_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    # MLflow's own defaults retry for minutes before a dead server is reported as such.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_SQLITE = "sqlite:///"
_CREATION_LOCK_SECONDS = 120.0


class StoreError(Exception):
    """The tracking store could not do what was asked; the message is one line."""


def set_environment() -> None:
    """Switch MLflow's telemetry off and bound its HTTP retries, unless the user's environment says otherwise.

    Call it before mlflow is imported. Child processes inherit the values.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)


def sqlite_path(tracking_uri: str) -> Path | None:
    """The database file of a `sqlite:///` URI, None for other stores.

    Raises:
        UserError: the path is relative, which would mean another file in every working directory.
    """
    if not tracking_uri.startswith(_SQLITE):
        return None
    path = Path(tracking_uri.removeprefix(_SQLITE).split("?")[0])
    if not path.is_absolute():
        raise UserError(f"{tracking_uri!r}: give the database an absolute path, sqlite:////absolute/path/mlflow.db")
    return path


def mlflow_key(name: str) -> str:
    """Turn a name into one that MLflow accepts; accepted names are returned as they are.

    MLflow allows letters, digits, `_-. :/`, paths in normal form, and 250 characters. Longer names keep a hash of
    the whole, so that two of them stay distinct.
    """
    key = posixpath.normpath(re.sub(r"[^\w\-. :/]", "_", name)).lstrip("/")
    key = re.sub(r"^\.\.?(/|$)", "_", key) or "_"
    if len(key) > MAX_KEY_LENGTH:
        key = f"{key[: MAX_KEY_LENGTH - 9]}_{hashlib.sha256(name.encode()).hexdigest()[:8]}"
    return key


def accepted_params(params: Mapping[str, str]) -> dict[str, str]:
    """Params as MLflow takes them: keys and values beyond its limits are cut (config.yaml is complete)."""
    return {mlflow_key(name): _cut(value, MAX_PARAM_LENGTH) for name, value in params.items()}


def accepted_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as MLflow takes them."""
    return {mlflow_key(name): _cut(value, MAX_TAG_LENGTH) for name, value in tags.items()}


def _cut(value: str, length: int) -> str:
    return value if len(value) <= length else value[: length - 1] + "…"


def import_client() -> Any:
    """Import mlflow's client, which takes a second or two, with the environment as it should be."""
    set_environment()
    from mlflow.tracking import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)  # dozens of migration lines on the first use of a database
    # Its errors come back as a StoreError, of one line rather than sixty.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    return MlflowClient


@final
class MlflowStore:
    """A connection to one experiment of a tracking store; the experiment is created if absent.

    The artifacts of a new experiment lie in `mlflow-artifacts` beside a sqlite file, and where a server puts them.

    Args:
        tracking_uri: MLflow tracking URI. `sqlite:///` needs an absolute path.
        experiment_name: experiment that runs go to.

    Raises:
        StoreError: the store cannot be reached or set up.
    """

    def __init__(self, tracking_uri: str, experiment_name: str) -> None:
        self._database = sqlite_path(tracking_uri)
        self._identity: tuple[int, int] | None = None
        with self._doing("open the store"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's use of SQLAlchemy is deprecated there; no user can fix that
            with self._creation_lock():
                self._client = import_client()(tracking_uri=tracking_uri)
                self.experiment_id = self._find_or_create_experiment(experiment_name)
            self._identity = self._database_identity()

    def _creation_lock(self) -> Any:
        # Two processes that migrate one fresh database at the same moment make one of them fail.
        if self._database is None:
            return nullcontext()
        self._database.parent.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(f"{self._database}.lock", timeout=_CREATION_LOCK_SECONDS)

    def _find_or_create_experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            location = None if self._database is None else str(self._database.parent / "mlflow-artifacts")
            return str(self._client.create_experiment(name, artifact_location=location, tags={_VIEW_TAG: _VIEW}))
        if experiment.tags.get(_VIEW_TAG) != _VIEW:
            with suppress(MlflowException):  # a server that forbids it costs the columns, not the run
                self._client.set_experiment_tag(experiment.experiment_id, _VIEW_TAG, _VIEW)
        return str(experiment.experiment_id)

    def _database_identity(self) -> tuple[int, int] | None:
        if self._database is None:
            return None
        status = self._database.stat()
        return status.st_dev, status.st_ino

    @contextmanager
    def _doing(self, action: str) -> Iterator[None]:
        """Turn any exception of MLflow, SQLAlchemy, requests or the file system into a `StoreError` of one line."""
        try:
            # SQLite goes on writing into a deleted file without an error: only its identity tells.
            if self._identity is not None and self._database_identity() != self._identity:
                raise StoreError(f"cannot {action}: {self._database} was replaced by another file")
            yield
        except StoreError:
            raise
        except Exception as error:
            text = " ".join(str(error).partition("[SQL:")[0].split())[:300]
            raise StoreError(f"cannot {action}: {type(error).__name__}: {text}") from error

    def find_run(self, run_id: str | None, key: str) -> Any:
        """The MLflow run of that id or, if there is none, the one created with `key`; None if there is neither."""
        from mlflow.exceptions import MlflowException

        with self._doing("find the run"):
            if run_id is not None:
                try:
                    run = self._client.get_run(run_id)
                    if run.info.lifecycle_stage == "active":
                        return run
                except MlflowException as error:
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise
            runs = self._client.search_runs([self.experiment_id], filter_string=f"tags.`{RUN_KEY_TAG}` = '{key}'")
            return runs[0] if runs else None

    def create_run(self, name: str, key: str) -> Any:
        """Create a run and return it.

        Args:
            name: name shown in the UI.
            key: unique text by which `find_run` finds the run.
        """
        with self._doing("create a run"):
            return self._client.create_run(self.experiment_id, run_name=name, tags={RUN_KEY_TAG: key})

    def log_metrics(self, run_id: str, records: Sequence[Record]) -> None:
        """Upload journal records."""
        from mlflow.entities import Metric

        lines = ((name, value, line) for line in records for name, value in line.metrics.items())
        self._log(
            run_id, metrics=[Metric(mlflow_key(n), v, round(line.time * 1000), line.step) for n, v, line in lines]
        )

    def log_params(self, run_id: str, params: Mapping[str, str]) -> None:
        """Upload params, see `accepted_params`."""
        from mlflow.entities import Param

        self._log(run_id, params=[Param(*item) for item in params.items()])

    def set_tags(self, run_id: str, tags: Mapping[str, str]) -> None:
        """Upload tags, see `accepted_tags`."""
        from mlflow.entities import RunTag

        self._log(run_id, tags=[RunTag(*item) for item in tags.items()])

    def _log(self, run_id: str, **entities: list[Any]) -> None:
        for kind, items in entities.items():
            size = MAX_METRICS_PER_CALL if kind == "metrics" else MAX_PARAMS_PER_CALL
            for start in range(0, len(items), size):
                with self._doing(f"log {kind}"):
                    self._client.log_batch(run_id, **{kind: items[start : start + size]})

    def log_dataset(self, run_id: str, dataset: Dataset) -> None:
        """Upload a dataset input. MLflow keeps 36 characters of the digest; the profile has all of it."""
        from mlflow import entities

        with self._doing("log a dataset"):
            found = entities.Dataset(
                name=dataset.name,
                digest=dataset.digest[:MAX_DIGEST_LENGTH],
                source_type="local",
                source=json.dumps({"uri": dataset.source}),
                profile=json.dumps({"num_rows": dataset.num_rows, "digest": dataset.digest}),
            )
            tags = [entities.InputTag("mlflow.data.context", dataset.context)]
            self._client.log_inputs(run_id, [entities.DatasetInput(found, tags)])

    def log_artifact(self, run_id: str, path: Path) -> None:
        """Upload a file under its own name."""
        with self._doing(f"log the artifact {path.name}"):
            self._client.log_artifact(run_id, str(path))

    def set_status(self, run_id: str, status: str) -> None:
        """Mark a run as RUNNING, or end it as FINISHED, FAILED or KILLED."""
        with self._doing("set the run's status"):
            if status == "RUNNING":
                self._client.update_run(run_id, status=status)
            else:
                self._client.set_terminated(run_id, status=status)


@functools.cache
def open_store(tracking_uri: str, experiment_name: str) -> MlflowStore:
    """One connection for a whole process; see `MlflowStore`."""
    return MlflowStore(tracking_uri, experiment_name)
