"""All notebooks are as they are committed, and the one that reads committed results runs; others are run with a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.notebooks import FOLDER, code_cells, run_notebook

NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_outputs_are_committed(path: Path) -> None:
    cells = code_cells(path)
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    assert [cell["metadata"].get("tags") for cell in cells].count(["parameters"]) == 1
    assert f"[{path.stem}]({path.name})" in (FOLDER / "README.md").read_text(encoding="utf-8")


def test_edges_of_the_committed_study(monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments.collapse_edges.plan import is_collapsed, is_harmed

    left, figures = run_notebook("edges.ipynb", monkeypatch)
    for label, expected in (("is_harmed", is_harmed), ("is_collapsed", is_collapsed)):
        assert list(left["runs"][label]) == [expected(row) for row in left["rows"].values()]
    assert [len(figure.axes) for figure in figures] == [1, 2]


def test_gains_of_the_committed_report(monkeypatch: pytest.MonkeyPatch) -> None:
    left, figures = run_notebook("paper.ipynb", monkeypatch)
    gains = left["compared"]["table2"]
    assert list(gains.loc["DPO β 0.001 lr 2e-7"]) == [30.0, 29.0, 30.9, 5.3]
    assert set(left["compared"]) == {"table2", "table3"}
    assert [len(figure.axes) for figure in figures] == [2, 1, 1, 1]  # gains, and three images
