"""Processes of this machine: one that is killed loses nothing, and none outlives the command."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from redi_lab.errors import UserError
from redi_lab.executor.crew import Crew
from redi_lab.executor.local import starter
from tests.conftest import REPOSITORY
from tests.executor import works


def wait_for(folder: Path, pattern: str, count: int) -> list[Path]:
    deadline = time.monotonic() + 60
    while len(found := sorted(folder.glob(pattern))) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_a_killed_process_is_replaced_and_nothing_is_lost_or_done_twice(tmp_path: Path) -> None:
    with closing(Crew(starter(None, partial(works.make_deadly, str(tmp_path)), lambda _: {}), 2, in_flight=2)) as crew:
        assert sorted(crew.run(iter(range(8)))) == [(value, value**2) for value in range(8)]
        assert (tmp_path / "died").exists()
        with pytest.raises(UserError, match=r"died 3 times in a row, at last because a worker process was killed"):
            list(crew.run(iter([13])))


def test_variables_are_set_and_errors_come_through() -> None:
    with closing(starter(None, works.make_environment, lambda _: {"REDI_LAB_TEST": "here"})(0)) as worker:
        assert worker.submit("REDI_LAB_TEST").result() == "here"
        assert isinstance(worker.submit("REDI_LAB_NONE").exception(), KeyError)
    with (
        closing(starter(None, works.make_broken, lambda _: {})(0)) as worker,
        pytest.raises(ValueError, match="no tokenizer"),
    ):
        worker.submit(1).result()


def test_closing_interrupts_what_is_under_way(tmp_path: Path) -> None:
    worker = starter(None, partial(works.make_sleeper, str(tmp_path)), lambda _: {})(0)
    worker.submit(1)
    wait_for(tmp_path, "*.began", 1)
    closing_thread = threading.Thread(target=worker.close)
    closing_thread.start()
    wait_for(tmp_path, "*.interrupted", 1)
    closing_thread.join(10)
    assert not closing_thread.is_alive()


def test_workers_end_with_the_command_however_that_ends(tmp_path: Path) -> None:
    command = subprocess.Popen([sys.executable, "-m", "tests.executor.works", str(tmp_path)], cwd=REPOSITORY)
    began = wait_for(tmp_path, "*.began", 2)
    command.kill()
    command.wait()
    wait_for(tmp_path, "*.interrupted", 2)
    for worker in (int(path.stem) for path in began):
        deadline = time.monotonic() + 30
        while os.path.exists(f"/proc/{worker}"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
