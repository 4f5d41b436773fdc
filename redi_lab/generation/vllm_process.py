"""One replica of vLLM as a process, spoken to in JSONL, and started again when something kills it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, final

from redi_lab.errors import UserError

WORKER = str(Path(__file__).with_name("vllm_worker.py"))
_MAX_STARTS = 3  # of one replica for one share: what kills it three times will do so again


@final
class WorkerProcess:
    """A replica in a separate process, which is started with the first request.

    Args:
        python: Python of the environment that has vLLM.
        checkpoint: Hugging Face folder.
        arguments: Arguments of vLLM's `EngineArgs`.
        rank: Which replica this is.
        num_replicas: How many there are.

    Raises:
        UserError: CUDA_VISIBLE_DEVICES names too few devices for all replicas.
    """

    def __init__(
        self, python: str, checkpoint: Path, arguments: Mapping[str, Any], rank: int, num_replicas: int
    ) -> None:
        # Isolated, so that neither this package's folder nor PYTHONPATH shadows what the worker imports.
        self._command = [python, "-I", WORKER, str(checkpoint), json.dumps(dict(arguments))]
        self._environment = dict(os.environ)
        if num_replicas > 1:
            self._environment |= _share_of_machine(rank, num_replicas, arguments["tensor_parallel_size"])
        self._rank = rank
        self._process: subprocess.Popen[str] | None = None
        self._log = Path(os.devnull)
        self._is_closed = False
        self._lock = threading.Lock()  # so that nothing is started after `close`

    def generate(self, requests: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """Complete all requests, in any order; `redi_lab.generation.vllm_worker` describes both forms.

        Raises:
            UserError: vLLM ended with an error, or was killed `_MAX_STARTS` times.
        """
        left = {request["id"]: request for request in requests}
        status = starts = 0
        while left and not self._is_closed:
            if starts == _MAX_STARTS:
                raise UserError(
                    f"vLLM worker {self._rank} was killed {starts} times, last by {signal.Signals(-status).name}: if"
                    " memory ran out, lower engine.options.gpu_memory_utilization, or kv_cache_memory_bytes on a CPU"
                )
            starts += 1
            process = self._start()
            for completion in _exchange(process, list(left.values())):
                del left[completion["id"]]
                yield completion
            if left and not self._is_closed and (status := process.wait()) >= 0:
                raise UserError(f"vLLM worker {self._rank} ended with status {status}: {_reason(self._log)}")

    def close(self) -> None:
        """End the process and what it started."""
        with self._lock:
            self._is_closed = True
            self._end()

    def _start(self) -> subprocess.Popen[str]:
        """The running process, else a new one."""
        with self._lock:
            if self._is_closed:
                raise RuntimeError("the worker was closed")
            if self._process is not None and self._process.poll() is None:
                return self._process
            self._end()
            handle, name = tempfile.mkstemp(prefix=f"redi_lab_vllm_{self._rank}_", suffix=".log")
            self._log = Path(name)
            with os.fdopen(handle, "w") as log:
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=self._environment,
                    encoding="utf-8",
                    start_new_session=True,  # Ctrl-C is for us; tensor-parallel children end with their group
                )
            return self._process

    def _end(self) -> None:
        """Kill the group, even if its leader is dead already; the log stays where vLLM itself failed."""
        if self._process is None:
            return
        has_failed = (self._process.poll() or 0) > 0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # requests that nobody read
                pipe.close()
        self._process = None
        if not has_failed:
            self._log.unlink(missing_ok=True)


def _exchange(process: subprocess.Popen[str], requests: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Send a batch and read its completions, until the batch or the process ends."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        # The worker reads the whole batch before it writes: neither side waits for the other.
        process.stdin.writelines(json.dumps(request) + "\n" for request in requests)
        process.stdin.write("\n")
        process.stdin.flush()
    except BrokenPipeError:
        return
    for line in process.stdout:
        if line == "\n" or not line.endswith("\n"):  # the end, or a line torn by a kill
            return
        yield json.loads(line)


def _share_of_machine(rank: int, num_replicas: int, devices: int) -> dict[str, str]:
    """Environment that gives a replica its own GPUs, or its part of the CPU's threads."""
    threads = max(1, len(os.sched_getaffinity(0)) // num_replicas)
    share = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible == "":  # GPUs are hidden on purpose
        return share
    needed = num_replicas * devices
    names = [str(number) for number in range(needed)] if visible is None else visible.split(",")
    if len(names) < needed:
        raise UserError(
            f"CUDA_VISIBLE_DEVICES={visible}: engine.data_parallel_size={num_replicas} times"
            f" engine.tensor_parallel_size={devices} needs {needed} devices"
        )
    return share | {"CUDA_VISIBLE_DEVICES": ",".join(names[rank * devices : (rank + 1) * devices])}


def _reason(log: Path) -> str:
    """The last error in a log, in one line, and where the log is."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"(\(.*?\) )?[\w.]*(Error|Exception|Interrupt)\b", line)]
    return f"{(errors or lines or ['it printed nothing'])[-1]} (log: {log})"
