"""What the processes of a launch say to each other, with scripts in the place of trainings."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from redi_lab.run import launched
from tests.conftest import REPOSITORY

TRAINING = """
import os, sys, time
name, rank = os.path.basename(sys.argv[1]), os.environ["RANK"]
assert os.environ["REDI_LAB_MEETING"].startswith("redi_lab/0/fit/")
if name == "killed" and rank == "0":
    time.sleep(100)  # waits for the other one
sys.exit(3 if name == "killed" else 0)
"""
SERVE = f"""
import sys
from redi_lab.run import launched
launched.RANK_WORKER = ("-c", {TRAINING!r})
sys.exit(launched.current_launch().serve())
"""


def test_ranks_take_part_in_one_training_after_the_other_and_end_as_the_first_one_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A rank that waits for one that is gone is ended, and not named as the one that failed."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    served = {**os.environ, **place, "RANK": "1", "LOCAL_RANK": "1"}
    other = subprocess.Popen([sys.executable, "-c", SERVE], cwd=REPOSITORY, env=served)
    monkeypatch.setattr(launched, "RANK_WORKER", ("-c", TRAINING))
    monkeypatch.setattr(launched, "_GRACE_SECONDS", 1)
    monkeypatch.setenv("RANK", "0")
    first = launched.Launch({**place, "RANK": "0", "LOCAL_RANK": "0"})
    codes: list[dict[int, int]] = []

    def lead() -> None:
        with first.led():
            assert "RANK" not in os.environ
            codes.extend(first.train(Path(name)) for name in ("whole", "killed", "again"))
            sys.exit(5)

    with pytest.raises(SystemExit):
        lead()
    assert other.wait(120) == 5
    assert codes == [{0: 0, 1: 0}, {0: -15, 1: 3}, {0: 0, 1: 0}]
