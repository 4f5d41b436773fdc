"""One fresh MLflow database for all tracking tests: its migrations take seconds."""

from __future__ import annotations

import pytest

from redi_lab.tracking.store import MlflowStore


@pytest.fixture(scope="session")
def tracking_uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    uri = f"sqlite:///{tmp_path_factory.mktemp('mlflow')}/mlflow.db"
    MlflowStore(uri, "warm-up")
    return uri
