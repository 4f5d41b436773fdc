"""Processes that the user's torchrun or srun has started, on one machine or several, all with the same command.

Rank 0 does what the command says. The others wait for the trainings that it announces, take part in each by a process
of their own, and end as it ends. They speak through the store at MASTER_ADDR:MASTER_PORT, which torchrun's agent keeps,
or else rank 0.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import cache, cached_property
from pathlib import Path
from types import FrameType
from typing import Any, final

from redi_lab.errors import EXIT_RESUMABLE, UserError

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""What saves the state of a training and ends it."""
ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
"""Variable that names a rank's file for what went wrong."""
MEETING = "REDI_LAB_MEETING"
"""Variable with the prefix of a training's keys in the store of a launch."""
RANK_WORKER = ("-m", "redi_lab.verbs.train.rank_worker")
"""What a rank runs, with the folder of a training."""
_OF_A_RANK = ("RANK", "WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS")
"""By what torch or Lightning would take the command itself for a rank of a training."""
_GRACE_SECONDS = 60


@final
class Launch:
    """One process of a launch.

    Args:
        environment: as torchrun sets it.

    Raises:
        UserError: a variable is missing.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        for name in ("RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
            if not environment.get(name):
                raise UserError(
                    f"WORLD_SIZE={environment['WORLD_SIZE']}: {name} is missing; start the command with torchrun or as"
                    " redi-lab slurm does, or unset WORLD_SIZE"
                )
        self.rank, self.size = int(environment["RANK"]), int(environment["WORLD_SIZE"])
        self._environment = {"TORCHELASTIC_RUN_ID": "redi_lab"} | dict(environment)
        self._prefix = f"redi_lab/{environment.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        self._num_announced = 0

    @cached_property
    def _store(self) -> Any:
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

        is_kept = self._environment.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        place = self._environment["MASTER_ADDR"], int(self._environment["MASTER_PORT"])
        store = TCPStore(
            *place, is_master=self.rank == 0 and not is_kept, timeout=timedelta(minutes=10), wait_for_workers=False
        )
        return PrefixStore(self._prefix, store)

    def serve(self) -> int:
        """Take part in what rank 0 announces; the exit status of its command."""
        for number in SIGNALS:
            signal.signal(number, lambda *_: os._exit(EXIT_RESUMABLE))
        while True:
            said = json.loads(self._wait_for(f"announced/{self._num_announced}"))
            if "status" in said:
                self._store.set(f"left/{self.rank}", "")
                return int(said["status"])
            code = self._take_part(Path(said["folder"]))
            self._store.set(f"ended/{self._num_announced}/{self.rank}", str(code))
            self._num_announced += 1

    def train(self, folder: Path) -> dict[int, int]:
        """Run `RANK_WORKER` as every rank, from rank 0; the exit code of each.

        A rank that was ended for another's sake has that of SIGTERM.

        Args:
            folder: of the training, which all machines see; each rank writes into it what went wrong.
        """
        self._announce({"folder": str(folder)})
        codes = {0: self._take_part(folder)}
        for rank in range(1, self.size):
            codes[rank] = int(self._wait_for(f"ended/{self._num_announced}/{rank}"))
        self._num_announced += 1
        return codes

    @contextmanager
    def led(self) -> Iterator[None]:
        """The time of rank 0's command, at whose end the others end."""
        self._store  # noqa: B018 - the others may look for it now
        for name in _OF_A_RANK:
            os.environ.pop(name, None)
        status: Any = 1
        try:
            yield
            status = 0
        except SystemExit as ended:
            status = ended.code
            raise
        finally:
            left = [f"left/{rank}" for rank in range(1, self.size)]
            with suppress(RuntimeError):  # one that is gone cannot leave
                self._announce({"status": status})
                self._store.wait(left, timedelta(seconds=_GRACE_SECONDS))

    def _announce(self, content: Mapping[str, Any]) -> None:
        self._store.set(f"announced/{self._num_announced}", json.dumps(content))

    def _wait_for(self, key: str) -> str:
        while not self._store.check([key]):  # its own waiting would not let signals through
            time.sleep(0.2)
        text: bytes = self._store.get(key)
        return text.decode()

    def _take_part(self, folder: Path) -> int:
        """The exit code of this rank's process, which hears the signals of this one."""
        failed = f"failed/{self._num_announced}"
        own = {MEETING: f"{self._prefix}/fit/{self._num_announced}", ERROR_FILE: str(error_file(folder, self.rank))}
        command = [sys.executable, *RANK_WORKER, str(folder)]
        # A session of its own: Ctrl-C would reach it twice.
        rank = subprocess.Popen(command, env=dict(os.environ) | self._environment | own, start_new_session=True)
        heard: set[int] = set()

        def pass_on(number: int, _: FrameType | None) -> None:
            heard.add(number)
            rank.send_signal(number)

        before = {number: signal.signal(number, pass_on) for number in SIGNALS}
        try:
            while rank.poll() is None:
                time.sleep(0.1)
                if self._store.check([failed]) and not _ends(rank):
                    return -signal.SIGTERM
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if rank.returncode:
            self._store.set(failed, "")
        return EXIT_RESUMABLE if -rank.returncode in heard else rank.returncode  # it could not listen yet


def error_file(folder: Path, rank: int) -> Path:
    """Where a rank writes what went wrong."""
    return folder / f"error-{rank}.json"


def _ends(rank: subprocess.Popen[bytes]) -> bool:
    """Whether it ends by itself, now that another has; if not, it is killed."""
    try:
        rank.wait(_GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        rank.kill()
        rank.wait()
        return False
    return True


@cache
def current_launch() -> Launch | None:
    """The launch that this process belongs to; None for a command that was started alone.

    Raises:
        UserError: the environment says too little of it.
    """
    size = os.environ.get("WORLD_SIZE", "")
    return Launch(os.environ) if size.isdigit() and int(size) > 1 else None
