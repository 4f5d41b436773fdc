"""Asks a program of the user, one process that is kept alive, in JSON lines.

To its standard input:  {"id": 7, "problem": "1+1?", "answers": ["2"], "completion": "It is 2."}
From its output:        {"id": 7, "verdict": "right", "reason": "equal"}

What it prints to standard error is kept for the message about its end.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeoutError
from pathlib import Path
from typing import Any, Self, final

from redi_lab.errors import UserError, in_short
from redi_lab.files import file_digest
from redi_lab.grading.grader import Grade, Verdict
from redi_lab.redaction import redacted
from redi_lab.verifiers.base import Limits, Posed

_LOG = logging.getLogger(__name__)
_ATTEMPTS = 3  # without any verdict: then the program is no verifier
_GRACE_SECONDS = 5.0  # to end by itself
_REPLY_CHARACTERS = 2**20


@final
class CommandVerifier:
    """See `Verifier`. A program that ends, hangs or says something else costs the verdict that it was asked for.

    Args:
        limits: time for one verdict.
        command: the program and its arguments; it runs with the rights of this process.
    """

    def __init__(self, limits: Limits, command: Sequence[str]) -> None:
        self._timeout_seconds = limits.timeout_seconds
        self._command = list(command)
        self._process: subprocess.Popen[str] | None = None
        self._talk = ThreadPoolExecutor(1)  # so that neither writing nor reading can take longer than it may
        self._number = self._failures = 0
        self._has_answered = False

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides a verdict: the command, and the content of the files that it names."""
        files = {word: file_digest(Path(word)) for word in self._command if Path(word).is_file()}
        command: list[str] = redacted(self._command)
        return {"name": "command", "command": command, "files": files, "timeout_seconds": self._timeout_seconds}

    def check(self, problems: Iterable[Posed]) -> None:
        """Any problem may be for it."""

    def grade_all(self, pairs: Iterable[tuple[str, Posed]]) -> list[Grade]:
        """A verdict for each completion of a problem, in order.

        Raises:
            UserError: the program gave no verdict at the first attempts.
        """
        return [self._grade(text, problem) for text, problem in pairs]

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the program."""
        self._stop(_GRACE_SECONDS)
        self._talk.shutdown()

    def _grade(self, text: str, problem: Posed) -> Grade:
        self._number += 1
        asked = {"id": self._number, "problem": problem.problem, "answers": list(problem.answers), "completion": text}
        exchange, line = self._talk.submit(self._exchange, json.dumps(asked) + "\n"), ""
        try:
            line = exchange.result(self._timeout_seconds)
            reply = json.loads(line)
            grade = Grade(Verdict(reply["verdict"]), str(reply.get("reason", "")), None)
            if reply["id"] == self._number:
                self._has_answered = True
                return grade
        except FutureTimeoutError:
            return self._failed(f"no verdict in {self._timeout_seconds:g} s")
        except OSError as error:
            return self._failed(f"it cannot be started: {in_short(error)}")
        except (ValueError, KeyError, TypeError, AttributeError):
            pass  # no verdict
        return self._failed(f"no verdict on {self._number}, but {line.strip()!r:.200}" if line else None)

    def _failed(self, failure: str | None) -> Grade:
        """The verdict unknown; the next one is asked of a new process, which cannot answer late.

        Args:
            failure: what happened; None: the program has ended.
        """
        status, said = self._stop(0.0 if failure else _GRACE_SECONDS)
        failure = failure or f"it ended with status {status}: {said}"
        place = f"verifier.command=[{','.join(redacted(self._command))}]"
        self._failures += 1
        if self._failures == _ATTEMPTS and not self._has_answered:
            raise UserError(f"{place}: {failure}; no verdict at {_ATTEMPTS} attempts: correct the program")
        if self._failures == 1:
            _LOG.warning("%s: %s; verdicts that it does not give are unknown", place, failure)
        return Grade(Verdict.UNKNOWN, f"the verifier failed: {failure}", None)

    def _exchange(self, request: str) -> str:
        """The answer to a request; empty where the program has ended."""
        if self._process is None:
            with contextlib.ExitStack() as stack:
                self._errors = stack.enter_context(tempfile.TemporaryFile())
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._errors,
                    encoding="utf-8",
                    errors="replace",
                    start_new_session=True,  # Ctrl-C is for us
                )
                stack.pop_all()  # open as long as the program runs
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(request)
            process.stdin.flush()
        return process.stdout.readline(_REPLY_CHARACTERS)

    def _stop(self, grace_seconds: float) -> tuple[int | None, str]:
        """End the program with all that it started; its status, and the last line that it printed as an error."""
        process, self._process = self._process, None
        if process is None:
            return None, ""
        assert process.stdin is not None
        assert process.stdout is not None
        if grace_seconds:  # nobody is writing
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(grace_seconds)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the group, even if its leader is dead already
        status = process.wait()
        for pipe in (process.stdin, process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
        with self._errors as errors:
            errors.seek(0)
            lines = errors.read().decode(errors="replace").split("\n")
        return status, next((line.strip()[:200] for line in reversed(lines) if line.strip()), "it printed nothing")
