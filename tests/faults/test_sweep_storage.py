"""Storages of sweeps that are locked or restarted while a trial runs: the trial waits, and every trial is kept."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import final

import optuna
import pytest

from redi_lab.errors import UserError
from redi_lab.run import study_storage as sweep_storage
from redi_lab.verbs.sweep.study import Report, RunResult, RunSpec, Sweep, open_study
from redi_lab.verbs.sweep.workers import Claims
from tests.verbs.sweep import fakes


def run(sweep: Sweep, in_the_second_trial: Callable[[], None]) -> dict[str, int]:
    """Plan and run all trials; how many ended how."""
    study = open_study(sweep)
    Claims(study, sweep.settings).plan(4)
    begun: list[RunSpec] = []

    def train(spec: RunSpec, report: Report) -> RunResult:
        begun.append(spec)
        if len(begun) == 2:
            in_the_second_trial()
        return fakes.train(spec, report)

    fakes.work(sweep, train)
    states = [trial.state.name for trial in optuna.load_study(study_name="fake", storage=study._storage).trials]
    assert len(begun) == len(states)
    return {state: states.count(state) for state in states}


def test_a_locked_sqlite_file_is_waited_for(tmp_path: Path) -> None:
    database = tmp_path / "study"

    def lock() -> None:
        is_locked = threading.Event()

        def hold() -> None:
            with closing(sqlite3.connect(database, isolation_level=None)) as connection:
                connection.execute("BEGIN EXCLUSIVE")
                is_locked.set()
                time.sleep(0.3)

        threading.Thread(target=hold).start()
        assert is_locked.wait(10)

    assert run(fakes.make_sweep(tmp_path, "sqlite"), lock) == {"COMPLETE": 4}


@final
@dataclass(frozen=True)
class Server:
    """A PostgreSQL of one's own on a unix socket."""

    programs: Path
    home: Path
    as_user: list[str]

    @property
    def url(self) -> str:
        return f"postgresql://me@/postgres?host={self.home}"

    def control(self, *arguments: str) -> None:
        places = ["-D", f"{self.home}/data", "-l", f"{self.home}/log", "-o", f"-c listen_addresses= -k {self.home}"]
        command = [*self.as_user, f"{self.programs}/pg_ctl", *places, "-w", *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def server() -> Iterator[Server]:
    programs = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)
    if programs is None:
        pytest.skip("needs PostgreSQL below /usr/lib/postgresql")
    pytest.importorskip("psycopg2", reason="needs the extra postgres")
    as_user = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    home = Path(subprocess.run([*as_user, "mktemp", "-d"], check=True, capture_output=True, text=True).stdout.strip())
    command = [*as_user, f"{programs}/initdb", "-D", f"{home}/data", "-A", "trust", "-U", "me"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    made = Server(programs, home, as_user)
    made.control("start")
    try:
        yield made
    finally:
        made.control("stop", "-m", "immediate")
        subprocess.run(["rm", "-rf", home], check=True)


@pytest.mark.slow
def test_a_database_that_is_restarted_is_waited_for(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sweep_storage, "_RETRY_SECONDS", 0.2)
    sweep = fakes.make_sweep(tmp_path)
    sweep = fakes.changed(sweep, storage=server.url)

    def restart() -> None:
        server.control("stop", "-m", "immediate")
        threading.Timer(2.0, server.control, ("start",)).start()

    assert run(sweep, restart) == {"COMPLETE": 4}
    assert f"sweep.storage={server.url} is away (" in caplog.text


@pytest.mark.slow
def test_a_database_that_was_never_there_is_told_at_once(server: Server, tmp_path: Path) -> None:
    sweep = fakes.make_sweep(tmp_path)
    sweep = fakes.changed(sweep, storage=f"postgresql://me@/postgres?host={tmp_path}")
    with pytest.raises(UserError, match="cannot be reached"):
        open_study(sweep)
