"""A connection to an MLflow store: bounded waits, names that it accepts, and one kind of failure.

mlflow is imported on first use (one to two seconds). Everything here may raise `StoreError`, which callers survive.
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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, final

import filelock

from redi_lab.errors import UserError

MAX_KEY_LENGTH = 250
RUN_KEY_TAG = "redi_lab.key"
RUNS_VIEW = "redi_lab"
"""Key of the runs table that MLflow's UI shows with `viewStateShareKey`: stages, best first, with these columns."""
_VIEW_TAG = f"mlflow.sharedViewState.{RUNS_VIEW}"
_VIEW = json.dumps(
    {
        "searchFilter": "tags.`redi_lab.stage` LIKE '%'",  # a study's own run has no score
        "orderByKey": "metrics.`eval/pass_at_1`",  # by time of creation, MLflow would hide trials under their study
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


def accepted(texts: Mapping[str, str], length: int) -> dict[str, str]:
    """Params or tags as MLflow takes them: keys and values beyond its limits are cut (config.yaml is complete)."""
    return {mlflow_key(k): v if len(v) <= length else v[: length - 1] + "…" for k, v in texts.items()}


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

    Attributes:
        client: MLflow's own; use it within `doing`.
        experiment_id: MLflow's id of the experiment.

    Raises:
        StoreError: the store cannot be reached or set up.
    """

    def __init__(self, tracking_uri: str, experiment_name: str) -> None:
        self._database = sqlite_path(tracking_uri)
        self._identity: tuple[int, int] | None = None
        with self.doing("open the store"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow's use of SQLAlchemy is deprecated there; no user can fix that
            with self._creation_lock():
                self.client = import_client()(tracking_uri=tracking_uri)
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

        experiment = self.client.get_experiment_by_name(name)
        if experiment is None:
            location = None if self._database is None else str(self._database.parent / "mlflow-artifacts")
            return str(self.client.create_experiment(name, artifact_location=location, tags={_VIEW_TAG: _VIEW}))
        if experiment.tags.get(_VIEW_TAG) != _VIEW:
            with suppress(MlflowException):  # a server that forbids it costs the columns, not the run
                self.client.set_experiment_tag(experiment.experiment_id, _VIEW_TAG, _VIEW)
        return str(experiment.experiment_id)

    def _database_identity(self) -> tuple[int, int] | None:
        if self._database is None:
            return None
        status = self._database.stat()
        return status.st_dev, status.st_ino

    @contextmanager
    def doing(self, action: str) -> Iterator[None]:
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
        """The MLflow run of that id or, if there is none, the one with that key; None if there is neither."""
        from mlflow.exceptions import MlflowException

        with self.doing("find the run"):
            if run_id is not None:
                try:
                    run = self.client.get_run(run_id)
                    if run.info.lifecycle_stage == "active":
                        return run
                except MlflowException as error:
                    if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                        raise
            runs = self.client.search_runs([self.experiment_id], filter_string=f"tags.`{RUN_KEY_TAG}` = '{key}'")
            return runs[0] if runs else None


@functools.cache
def open_store(tracking_uri: str, experiment_name: str) -> MlflowStore:
    """One connection for a whole process; see `MlflowStore`."""
    return MlflowStore(tracking_uri, experiment_name)
