"""The exceptions that the command line tells in one line: mistakes that a user can mend, and interruptions.

A `UserError` ends a command with status 2, a `RunInterruptedError` with `EXIT_RESUMABLE`; every other exception is a
defect of the lab and keeps its traceback.
"""

from __future__ import annotations

import os
import signal
from types import FrameType
from typing import NoReturn, final


@final
class UserError(ValueError):
    """Bad input or configuration. The message names the file, row, key or value, and what to do about it.

    It is one line: values and messages of libraries that it quotes lose their line breaks.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()).strip())


def in_short(error: Exception) -> str:
    """What an exception says, in one line that a person may read; libraries append pages of names and advice."""
    first, *more = (str(error).strip() or type(error).__name__).splitlines()
    text = f"{first} {more[0].strip()}" if first.endswith(":") and more else first
    return text if len(text) <= 200 else f"{text[:200].rpartition(' ')[0]} …"


EXIT_RESUMABLE = 75
"""EX_TEMPFAIL of sysexits.h: the command was interrupted, and the same command goes on where it stopped."""


@final
class RunInterruptedError(BaseException):
    """A signal ended the run; like `KeyboardInterrupt` it is no `Exception`, so nobody handles it by chance."""


_AGAIN = "give the same command again"


def quit_at_once(number: int, _: FrameType | None) -> NoReturn:
    """Handle a signal before anything is begun. An exception could be lost in the imports that it would interrupt."""
    os.write(2, f"\nredi_lab: {signal.Signals(number).name}; {_AGAIN}\n".encode())
    os._exit(EXIT_RESUMABLE)


def unwind_on_sigterm() -> None:
    """From here on SIGTERM raises `RunInterruptedError`, so that what is open gets closed."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise RunInterruptedError(f"{signal.Signals(number).name}; {_AGAIN}")

    if signal.getsignal(signal.SIGTERM) is quit_at_once:  # not where the lab is a library
        signal.signal(signal.SIGTERM, interrupt)
