"""Whether a tracking store works, found out within seconds, for `doctor`."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing

from redi_lab.tracking.store import MlflowStore, StoreError, sqlite_path

_BUSY_SECONDS = 1.0
_HTTP_SECONDS = "5"


def check_store(tracking_uri: str, experiment_name: str) -> str:
    """Look into a store; a database that does not exist is not made, an experiment is.

    Returns:
        What was found, in words.

    Raises:
        StoreError: it does not work; the message is one line.
        UserError: the URI is unusable.
    """
    path = sqlite_path(tracking_uri)
    if path is not None and not path.exists():
        return f"{path}: made by the first run"
    found = tracking_uri
    if path is not None:
        try:
            with closing(sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                (revision,) = connection.execute("SELECT version_num FROM alembic_version").fetchone() or ("none",)
                connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise StoreError(f"{path}: {error}") from error
        found = f"{path}: can be written, schema {revision}"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", _HTTP_SECONDS)
    MlflowStore(tracking_uri, experiment_name)
    return found
