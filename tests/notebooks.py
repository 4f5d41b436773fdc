"""Runs notebooks as Jupyter does: cell after cell, in one namespace, from their own folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pytest

from tests.conftest import REPOSITORY

FOLDER = REPOSITORY / "notebooks"


def run_notebook(name: str, monkeypatch: pytest.MonkeyPatch, **parameters: Any) -> tuple[dict[str, Any], list[Any]]:
    """The namespace that a notebook leaves, and the figures that it showed.

    Args:
        name: of the file.
        monkeypatch: undoes the change of folder.
        parameters: what to set after the cell that is tagged so.
    """
    monkeypatch.chdir(FOLDER)
    monkeypatch.setattr(plt, "show", lambda: None)
    plt.switch_backend("agg")
    plt.close("all")
    namespace: dict[str, Any] = {}
    for number, cell in enumerate(code_cells(FOLDER / name)):
        exec(compile("".join(cell["source"]), f"{name}, code cell {number}", "exec"), namespace)
        if "parameters" in cell["metadata"].get("tags", ()):
            assert parameters.keys() <= namespace.keys()
            namespace |= parameters
    figures = [plt.figure(number) for number in plt.get_fignums()]
    for figure in figures:
        figure.canvas.draw()
    plt.close("all")
    return namespace, figures


def code_cells(path: Path) -> list[dict[str, Any]]:
    """The cells of a notebook that are run."""
    cells: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]
