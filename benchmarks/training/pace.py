"""How the driver and a side keep step: a side trains in its own process and waits before every step to be told to go.

    side  → driver   {"step": k, "seconds": ..., "loss": ..., "peak_bytes": ...}   done; k = 0: ready for the first one
    driver → side    go

A step lasts from "go" to the next report, so everything that a training loop does between two steps counts. On a CPU a
side has one thread and its seconds are those of processor time, which is what the step takes on an idle core: other
work on the machine then hardly shows. Imports nothing but the standard library: both environments use it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, final


@final
class Pace:
    """The side's end. Takes over standard output, so that nothing else can write into the conversation."""

    def __init__(self) -> None:
        self._out = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)
        self._step = 0
        self._began = 0.0

    def report_and_wait(self, loss: float | None, *, is_last: bool = False) -> None:
        """Tell how the step before went; return when the next may begin."""
        report = {"step": self._step, "seconds": _now() - self._began, "loss": loss, "peak_bytes": peak_bytes()}
        self._step += 1
        self._out.write(json.dumps(report) + "\n")
        if not is_last and sys.stdin.readline().strip() != "go":
            sys.exit(0)
        self._began = _now()


@final
class Side:
    """The driver's end: a process that trains step by step."""

    def __init__(self, name: str, command: list[str], log: Path, environment: dict[str, str]) -> None:
        self.name = name
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
            )
        self.ready = self._read()

    def step(self) -> dict[str, Any]:
        """Let it make one step; its report."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()  # and closes its pipes

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = self._log.read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.name} ended with code {self._process.wait()}:\n{tail}")
        report: dict[str, Any] = json.loads(line)
        return report


def _now() -> float:
    """Seconds of this process on a CPU; of the clock on a GPU, once it has done all that it was given."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def peak_bytes() -> int:
    """Most memory that this process had: of the GPU where it uses one, else resident."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    # Not getrusage: what it tells of a fresh process can be the peak of its parent.
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) * 1024
