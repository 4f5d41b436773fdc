"""One replica of vLLM as a process, spoken to in JSON lines."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, final

from redi_lab.errors import UserError
from redi_lab.executor.crew import WorkerDiedError

WORKER = str(Path(__file__).with_name("vllm_worker.py"))


@final
class Replica:
    """A replica in a separate process, which starts with the first request and takes any number at once.

    Args:
        python: Python of the environment that has vLLM.
        checkpoint: Hugging Face folder.
        arguments: Arguments of vLLM's `EngineArgs`.
        environment: Further variables of its process.
    """

    def __init__(
        self, python: str, checkpoint: Path, arguments: Mapping[str, Any], environment: Mapping[str, str] | None = None
    ) -> None:
        # Isolated, so that neither this package's folder nor PYTHONPATH shadows what the worker imports.
        self._command = [python, "-I", WORKER, str(checkpoint), json.dumps(dict(arguments))]
        self._environment = dict(environment or {})
        self._process: subprocess.Popen[str] | None = None
        self._log = Path(os.devnull)
        self._waiting: dict[str, Future[dict[str, Any]]] = {}
        self._end: Exception | None = None
        self._lock = threading.Lock()  # of the two above
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self.ready: Future[Any] = Future()
        self.ready.set_result(None)

    def submit(self, request: dict[str, Any]) -> Future[dict[str, Any]]:
        """Begin with a request; `redi_lab.generation.vllm_worker` describes it and its completion.

        The future fails with a `WorkerDiedError` if something killed the process, and with a `UserError` if vLLM ended
        by itself.
        """
        future: Future[dict[str, Any]] = Future()
        with self._lock:
            if self._end is not None:
                future.set_exception(self._end)
                return future
            self._waiting[request["id"]] = future
        process = self._process or self._start()
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it is dead: whoever listens will say so
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        return future

    def plain(self, error: BaseException) -> BaseException:
        """See `Worker.plain`."""
        return error

    def close(self) -> None:
        """End the process and what it started; the log stays where vLLM itself failed."""
        if self._process is None:
            return
        has_failed = (self._process.poll() or 0) > 0
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # the group, even if its leader is dead already
        self._listener.join()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):  # requests that nobody read
                pipe.close()
        if not has_failed:
            self._log.unlink(missing_ok=True)

    def _start(self) -> subprocess.Popen[str]:
        handle, name = tempfile.mkstemp(prefix="redi_lab_vllm_", suffix=".log")
        self._log = Path(name)
        with os.fdopen(handle, "w") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=os.environ | self._environment,
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is for us; tensor-parallel children end with their group
            )
        self._listener.start()
        return self._process

    def _listen(self) -> None:
        """Pass on completions as they come, and in the end why there are no more."""
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith("\n"):  # else torn by a kill
                completion = json.loads(line)
                with self._lock:
                    future = self._waiting.pop(completion["id"])
                future.set_result(completion)
        end = self._reason(self._process.wait())
        with self._lock:
            self._end = end
        for future in self._waiting.values():
            future.set_exception(end)

    def _reason(self, status: int) -> Exception:
        if status < 0:
            return WorkerDiedError(
                f"{signal.Signals(-status).name} ended vLLM: if memory ran out, lower"
                " engine.options.gpu_memory_utilization, or kv_cache_memory_bytes on a CPU"
            )
        text = self._log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        errors = [line for line in lines if re.match(r"(\(.*?\) )?[\w.]*(Error|Exception|Interrupt)\b", line)]
        reason = (errors or lines or ["it printed nothing"])[-1]
        return UserError(f"vLLM ended with status {status}: {reason} (log: {self._log})")
