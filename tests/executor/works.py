"""What worker processes do in tests: functions of a module, so that they are found."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from redi_lab.executor.crew import Crew
from redi_lab.executor.local import starter


def make_square() -> Callable[[int], int]:
    return lambda value: value * value


def make_deadly(folder: str) -> Callable[[int], int]:
    """Squares; the first process that gets 3 is killed, and those that get 13 are."""

    def work(value: int) -> int:
        mark = Path(folder) / "died"
        if value == 13 or (value == 3 and not mark.exists()):
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return value * value

    return work


def make_sleeper(folder: str) -> Callable[[Any], Any]:
    """Says that it began, and how it ended, in files named by its process id."""

    def work(item: Any) -> Any:
        began = Path(folder) / f"{os.getpid()}.began"
        began.touch()
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            began.with_suffix(".interrupted").touch()
            raise

    return work


def environment(name: str) -> str:
    return os.environ[name]


def make_environment() -> Callable[[str], str]:
    return environment


def make_broken() -> Callable[[int], int]:
    raise ValueError("no tokenizer there")


if __name__ == "__main__":  # a command that is killed while its workers sleep: FOLDER
    from functools import partial

    with closing(Crew(starter(None, partial(make_sleeper, sys.argv[1]), lambda _: {}), 2)) as crew:
        list(crew.run(iter([1, 2])))
