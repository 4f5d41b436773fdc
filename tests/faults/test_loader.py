"""Loader workers that are killed: what they were doing is done again."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path
from typing import final

import pytest
from torch.utils.data import DataLoader, Dataset

from redi_lab.data import loader
from redi_lab.data.datamodule import GlobalBatchSampler
from redi_lab.data.loader import RestartingLoader
from redi_lab.errors import UserError
from tests.callbacks.resume_runs import num_lines, start, stop_server
from tests.faults.kill_matrix import difference, run_through


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_killed_loader_workers_leave_no_trace(tmp_path: Path) -> None:
    """A training with random numbers of its own, which a loader's must not disturb."""
    run_through(tmp_path / "through", "redi", accumulates=True)
    process = start(tmp_path / "killed", "redi", num_workers=2)
    while process.is_alive() and num_lines(tmp_path / "killed") < 2:
        time.sleep(0.001)
    os.kill(random.Random(f"{tmp_path}").choice(children(process.pid)), signal.SIGKILL)
    process.join()
    assert process.exitcode == 0
    assert difference(tmp_path / "killed", tmp_path / "through") == ""
    stop_server()


@final
class Broken(Dataset[int]):
    """Ends the worker, or raises, as soon as it is asked."""

    def __init__(self, *, is_deadly: bool) -> None:
        self.is_deadly = is_deadly

    def __getitem__(self, index: int) -> int:
        if self.is_deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("a defect of ours")


def broken_loader(*, is_deadly: bool) -> RestartingLoader:
    dataset = Broken(is_deadly=is_deadly)
    return RestartingLoader(
        lambda rest: DataLoader(dataset, batch_size=None, sampler=rest, num_workers=1), GlobalBatchSampler(4, 2, 0)
    )


def test_workers_that_die_again_and_again_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_MAX_DEATHS", 1)  # torch looks after its workers every 5 s only
    with pytest.raises(UserError, match=r"killed 1 times in a row.*lower it \(0: no processes\)"):
        list(broken_loader(is_deadly=True))


def test_an_error_in_a_worker_is_no_death() -> None:
    with pytest.raises(ValueError, match="a defect of ours"):
        list(broken_loader(is_deadly=False))
