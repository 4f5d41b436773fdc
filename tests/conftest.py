"""Fixtures shared by all tests."""

from __future__ import annotations

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # before torch is imported, as redi_lab.cli does

from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared_data() -> Callable[[str], Path]:
    """A function from a path inside the shared data folder to its absolute path; skips where the data is absent."""
    root = Path(os.environ.get("REDI_LAB_TEST_DATA", REPOSITORY.parent / "shared" / "data"))

    def locate(relative: str) -> Path:
        path = root / relative
        if not path.exists():
            pytest.skip(f"real test data not found: {path} (set REDI_LAB_TEST_DATA to its folder)")
        return path

    return locate
