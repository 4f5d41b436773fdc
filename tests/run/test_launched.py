"""What the processes of a launch say to each other, with scripts in the place of trainings."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from tests.conftest import REPOSITORY

RANK = """
import os, sys, time
name, rank = os.path.basename(sys.argv[1]), os.environ["RANK"]
assert os.environ["REDI_LAB_MEETING"].startswith("redi_lab/0/fit/")
if name == "killed" and rank == "0":
    time.sleep(100)  # waits for the other one
sys.exit(3 if name == "killed" else 0)
"""
COMMAND = f"""
import os, sys
from pathlib import Path
from redi_lab.run import launched
launched.RANK_WORKER, launched._GRACE_SECONDS = ("-c", {RANK!r}), 1
launch = launched.current_launch()
if launch.rank:
    sys.exit(launch.serve())
with launch.led():
    assert "RANK" not in os.environ
    print(launch.train(Path("whole")), launch.train(Path("killed")), launch.train(Path("again")))
    sys.exit(5)
"""


def test_ranks_take_part_in_one_training_after_the_other_and_end_as_the_first_one_ends() -> None:
    """A rank that waits for one that is gone is ended, and not named as the one that failed."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", COMMAND],
            cwd=REPOSITORY,
            env={**os.environ, **place, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [5, 5]
    assert said == ["{0: 0, 1: 0} {0: -15, 1: 3} {0: 0, 1: 0}\n", ""]
