"""The one console of the lab: lines that leave paths whole, and the bar that every wait shows.

with progress_bar() as progress:
    task = progress.add_task("Tokenising", total=100)
    progress.update(task, completed=20)

Bars are for terminals; what is piped into a file or a program has lines alone, each unbroken.
"""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

CONSOLE = Console()
_SPEED_WINDOW_SECONDS = 7 * 24 * 3600.0
"""rich forgets what is older and then knows no time left: its 30 s are less than a step of a large model."""


def say(text: str) -> None:
    """Print rich markup; a terminal's width breaks its lines between words, never within a path or an option."""
    lines = text.split("\n")
    if CONSOLE.is_terminal:
        lines = [textwrap.fill(line, CONSOLE.width, break_long_words=False, break_on_hyphens=False) for line in lines]
    CONSOLE.print("\n".join(lines), highlight=False, soft_wrap=True)


def say_path(title: str, path: object) -> None:
    """Print ``Title:      PATH`` in one piece, the path as it is: brackets in it are not markup."""
    CONSOLE.print(f"{title + ':':<12}{path}", highlight=False, markup=False, soft_wrap=True)


def progress_bar(*columns: TextColumn) -> Progress:
    """A bar with the time that is left, from the speed since the wait began; nothing where there is no terminal.

    Args:
        columns: further ones at its end.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        *columns,
        console=CONSOLE,
        speed_estimate_period=_SPEED_WINDOW_SECONDS,
        disable=not (CONSOLE.is_terminal or CONSOLE.is_jupyter),
    )


@contextmanager
def waiting(title: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar that is gone when the wait is over; yields what is to be called with what is done and the total."""
    with progress_bar() as progress:
        task = progress.add_task(title, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
        progress.update(task, visible=False)


def send_screen_to(path: Path) -> None:
    """Send what this process writes to the screen from now on, also by libraries and child processes, to a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    with path.open("ab") as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
