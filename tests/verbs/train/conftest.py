"""Commands of these tests draw and plan nothing: that has its own tests, and takes most of a tiny run's time."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)


@contextmanager
def undrawn() -> Iterator[None]:
    """Write a picture of one pixel in place of each figure of curves, and say that layers hold a megabyte."""

    def write(runs: Mapping[str, Path], destination: Path, *_: object) -> Path:
        destination.write_bytes(_PIXEL)
        return destination

    from redi_lab.planning.footprint import Layers  # here, as in tests/conftest.py

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("redi_lab.verbs.train.report.plot_curves", write)
        patch.setattr("redi_lab.run.plan.measure_layers", lambda *_, **__: Layers(10**6, 10**6))
        yield


@pytest.fixture(autouse=True)
def without_drawing() -> Iterator[None]:
    """For each test; what a module's fixture trains is drawn and planned unless it says otherwise."""
    with undrawn():
        yield
