"""The kill matrix, cell by cell; tests/callbacks/test_resume.py has the quick case."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.callbacks.resume_runs import BATCH_SIZES, start_two_ranks, stop_server
from tests.faults.kill_matrix import CELLS, KILLS, Cell, Kill, RankKill, run_cell, run_ranks, run_through
from tests.modules.tiny_runs import HARMLESS_WARNINGS

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]
Through = Callable[[str, bool], Path]


@pytest.fixture(scope="module")
def through(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Through]:
    """The folder of a training that nothing interrupted."""
    folders: dict[tuple[str, bool], Path] = {}

    def folder(objective: str, accumulates: bool) -> Path:
        if (objective, accumulates) not in folders:
            folders[objective, accumulates] = tmp_path_factory.mktemp(objective)
            run_through(folders[objective, accumulates], objective, accumulates=accumulates)
        return folders[objective, accumulates]

    yield folder
    stop_server()


def check(cell: Cell, through: Through, tmp_path: Path) -> None:
    outcome = run_cell(cell, tmp_path, through(cell.objective, cell.accumulates), random.Random(f"{tmp_path}"))
    assert outcome.difference == ""
    assert outcome.num_hits >= KILLS - 1  # a training may be done before the last one comes


@pytest.mark.slow
def test_kills_while_a_state_is_written_leave_no_trace(through: Through, tmp_path: Path) -> None:
    check(Cell("unpaired_redi", True, Kill.SAVING), through, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "cell", CELLS, ids=lambda c: f"{c.objective}-{'many' if c.accumulates else 'one'}-{c.kill.name}"
)
def test_every_way_to_be_killed(cell: Cell, through: Through, tmp_path: Path) -> None:
    check(cell, through, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("objective", list(BATCH_SIZES))
def test_two_ranks_killed_in_every_way(objective: str, tmp_path: Path) -> None:
    assert start_two_ranks(tmp_path / "through", objective).wait() == 0
    outcome = run_ranks(objective, tmp_path / "killed", tmp_path / "through", random.Random(f"{tmp_path}"))
    assert outcome.difference == ""
    assert outcome.num_hits == len(RankKill)
