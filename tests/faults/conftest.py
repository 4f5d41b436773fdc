"""A fresh MLflow database, whose migrations take seconds, copied for each test that breaks one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from redi_lab.tracking.store import MlflowStore


@pytest.fixture(scope="session")
def fresh_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mlflow")
    MlflowStore(f"sqlite:///{folder}/mlflow.db", "redi_lab", str(folder / "artifacts"))
    return folder / "mlflow.db"


@pytest.fixture
def database(fresh_database: Path, tmp_path: Path) -> Path:
    """A store of one's own, in a folder of its own."""
    (tmp_path / "store").mkdir()
    return Path(shutil.copy(fresh_database, tmp_path / "store" / "mlflow.db"))
