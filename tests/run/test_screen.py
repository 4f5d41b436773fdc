from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from redi_lab.run import screen

LONG = "/data/" + "a_long_folder_name/" * 5 + "träces [1] of 2"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., io.StringIO]:
    def make(*, is_terminal: bool, clock: Callable[[], float] | None = None) -> io.StringIO:
        written = io.StringIO()
        console = Console(file=written, force_terminal=is_terminal, width=80, get_time=clock)
        monkeypatch.setattr(screen, "CONSOLE", console)
        return written

    return make


@pytest.mark.parametrize("is_terminal", [True, False])
def test_paths_are_printed_whole_and_literally(terminal: Callable[..., io.StringIO], is_terminal: bool) -> None:
    written = terminal(is_terminal=is_terminal)
    screen.say_path("Curves", LONG)
    assert LONG in written.getvalue()
    assert written.getvalue().startswith("Curves:")


def test_prose_breaks_between_words_on_a_terminal_and_nowhere_in_a_pipe(terminal: Callable[..., io.StringIO]) -> None:
    text = "word " * 30 + "redi-lab_resume=" + "x" * 100
    on_screen = terminal(is_terminal=True)
    screen.say(text)
    lines = on_screen.getvalue().splitlines()
    assert [len(line) for line in lines] == [79, 69, 116]
    assert {word for line in lines for word in line.split()} == set(text.split())
    in_pipe = terminal(is_terminal=False)
    screen.say(text)
    assert in_pipe.getvalue() == text + "\n"


def test_a_pipe_has_no_bars(terminal: Callable[..., io.StringIO]) -> None:
    for is_terminal in (True, False):
        written = terminal(is_terminal=is_terminal)
        with screen.progress_bar() as progress:
            progress.update(progress.add_task("Tokenising", total=2), completed=1)
        assert ("Tokenising" in written.getvalue()) is is_terminal


def test_time_left_is_known_where_a_step_takes_minutes(terminal: Callable[..., io.StringIO]) -> None:
    now = 0.0
    terminal(is_terminal=True, clock=lambda: now)
    with screen.progress_bar() as progress:
        task = progress.add_task("Training", total=10, completed=2)  # two were done before
        for step in (3, 4, 5):
            now += 240
            progress.update(task, completed=step)
        assert progress.tasks[0].time_remaining == 5 * 240


def test_there_is_one_bar_in_the_package() -> None:
    package = Path(screen.__file__).parents[1]
    makers = {path.name for path in package.rglob("*.py") if "return Progress(" in path.read_text()}
    assert makers == {"screen.py"}
