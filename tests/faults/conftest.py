"""A store for each test that breaks one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def database(mlflow_database: Path, tmp_path: Path) -> Path:
    """A copy of the fresh database in a separate folder."""
    (tmp_path / "store").mkdir()
    return Path(shutil.copy(mlflow_database, tmp_path / "store" / "mlflow.db"))
