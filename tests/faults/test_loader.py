"""Loader workers that are killed: what they were doing is done again."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

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
