"""Mistakes that a user can fix, and interruptions: the exceptions that the command line reports in one line.

A `UserError` ends a command with status 2, a `RunInterruptedError` with `EXIT_RESUMABLE`; every other exception is a
defect of the lab and keeps its traceback.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn, final

EXIT_RESUMABLE = 75
"""EX_TEMPFAIL of sysexits.h: the command was interrupted, and the same command goes on where it stopped."""
_AGAIN = "give the same command again"


@final
class UserError(ValueError):
    """Bad input or configuration. The message names the file, row, key or value, and what to do about it.

    It is one line: values and messages of libraries that it quotes lose their line breaks.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(line.strip() for line in message.splitlines()).strip())


@final
class RunInterruptedError(BaseException):
    """A signal ended the run; like `KeyboardInterrupt` it is not an `Exception`, so nobody handles it by chance."""


def in_short(error: Exception) -> str:
    """What an exception says, in one readable line; libraries append pages of names and advice."""
    first, *more = (str(error).strip() or type(error).__name__).splitlines()
    text = f"{first} {more[0].strip()}" if first.endswith(":") and more else first
    return text if len(text) <= 200 else f"{text[:200].rpartition(' ')[0]} …"


def quit_at_once(number: int, _: FrameType | None) -> NoReturn:
    """Handle a signal before any work has begun: an exception could be lost in the imports that it interrupts."""
    os.write(2, f"\nredi_lab: {signal.Signals(number).name}; {_AGAIN}\n".encode())
    os._exit(EXIT_RESUMABLE)


@contextmanager
def interruptible(how_to_go_on: str = _AGAIN) -> Iterator[None]:
    """Within the block, SIGTERM and SIGINT raise a `RunInterruptedError` that says how to go on.

    SIGINT too: Lightning answers a KeyboardInterrupt with exit status 1 and no message. Of nested blocks the outermost
    says how to go on.
    """

    def interrupt(number: int, _: FrameType | None) -> None:
        raise RunInterruptedError(signal.Signals(number).name)

    is_main = threading.current_thread() is threading.main_thread()
    before = {n: signal.signal(n, interrupt) for n in (signal.SIGTERM, signal.SIGINT)} if is_main else {}
    try:
        yield
    except RunInterruptedError as error:
        name = str(error).partition(";")[0]
        raise RunInterruptedError(f"{name}; to go on, {how_to_go_on}") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
