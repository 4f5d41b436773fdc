"""Where a training was killed × objective × loader workers × micro-batches a step: is the end the same to the bit?

    python -m tests.faults.kill_matrix  # the table of docs/resume.md, in a quarter of an hour

Every cell kills a training of 15 steps several times, further on each time, lets the rest run through, and holds log
and final weights against those of a training that ran through.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, final

import torch
from rich.progress import track

from redi_lab.errors import EXIT_RESUMABLE
from tests.callbacks.resume_runs import (
    BATCH_SIZES,
    STEPS,
    log,
    num_lines,
    send_at,
    start,
    start_two_ranks,
    weights,
)

KILLS = 3  # in each cell


class Kill(StrEnum):
    """What ends a training of one process."""

    ANY_TIME = "SIGKILL at any time"
    SAVING = "SIGKILL while a state is written"
    TERM = "SIGTERM"
    INT = "SIGINT"


class RankKill(StrEnum):
    """What ends a training of two ranks; the first is the process that the user started."""

    BOTH = "SIGKILL to both"
    FIRST = "SIGKILL to the first"
    SECOND = "SIGKILL to the second"
    SAVING = "SIGKILL to both while a state is written"
    TERM = "SIGTERM to the first"
    INT = "SIGINT to both"


@final
@dataclass(frozen=True)
class Cell:
    """One training that is killed."""

    objective: str
    accumulates: bool
    kill: Kill


@final
@dataclass(frozen=True)
class Outcome:
    """What came of it.

    Attributes:
        num_hits: kills that came before the end.
        num_torn: of those, the ones that left a half-written state behind.
        difference: from the training that ran through; empty: none.
    """

    num_hits: int
    num_torn: int
    difference: str


CELLS = [Cell(*cell) for cell in itertools.product(BATCH_SIZES, (False, True), Kill)]


def run_cell(cell: Cell, folder: Path, through: Path, rng: random.Random) -> Outcome:
    """Kill a training `KILLS` times, let it end, and compare it with one that ran `through`."""
    is_signal = cell.kill in (Kill.TERM, Kill.INT)
    options: dict[str, Any] = {"accumulates": cell.accumulates}
    options["every_n_steps"] = None if is_signal else 1  # a signal saves by itself
    hits = torn = 0
    for number in range(KILLS):
        process = start(folder, cell.objective, **options)
        done = num_lines(folder)
        line = rng.randint(done + is_signal, max(done + is_signal, STEPS * (number + 1) // KILLS))
        _strike(process, folder, cell.kill, line, rng)
        process.join()
        if process.exitcode not in (0, EXIT_RESUMABLE if is_signal else -signal.SIGKILL):
            return Outcome(hits, torn, f"exit status {process.exitcode} after {cell.kill}")
        hits += process.exitcode != 0  # 0: it was at its end, too late to hear a signal
        torn += _is_saving(folder)
    process = start(folder, cell.objective, **options)
    process.join()
    return Outcome(hits, torn, f"exit status {process.exitcode}" if process.exitcode else difference(folder, through))


def run_ranks(objective: str, folder: Path, through: Path, rng: random.Random) -> Outcome:
    """Kill a training of two gloo ranks once in every way, further on each time, and compare as above.

    Raises:
        TimeoutError: a rank that was left alone waits for ever.
    """
    hits = torn = 0
    for kill in rng.sample(list(RankKill), len(RankKill)):
        process = start_two_ranks(folder, objective)
        line = num_lines(folder) + rng.randint(1, 2)
        hits += _strike_ranks(process, folder, kill, line, rng)
        process.wait(timeout=120)
        _await(lambda group=process.pid: not _ranks(group), 60)  # type: ignore[misc]
        torn += _is_saving(folder)
    if start_two_ranks(folder, objective).wait(timeout=240):
        return Outcome(hits, torn, "the last start failed")
    first, second = weights(folder, rank=0), weights(folder, rank=1)
    parted = [name for name, tensor in first.items() if not torch.equal(tensor, second[name])]
    return Outcome(hits, torn, f"ranks differ in {parted[0]}" if parted else difference(folder, through))


def run_through(folder: Path, objective: str, *, accumulates: bool) -> None:
    """The training that nothing interrupts, without loader workers and states."""
    process = start(folder, objective, accumulates=accumulates, every_n_steps=None)
    process.join()
    assert process.exitcode == 0


def difference(folder: Path, expected: Path) -> str:
    """Where log, best score or final weights of a training are not those expected; empty where they are."""
    if log(folder) != log(expected):
        return "the log differs"
    best = Path("checkpoints", "best", "best.json")
    if (folder / best).read_text() != (expected / best).read_text():
        return "the best checkpoint differs"
    found, wanted = weights(folder), weights(expected)
    parted = [name for name in wanted if name not in found or not torch.equal(found[name], wanted[name])]
    return f"{len(parted)} weight tensors differ" if parted or len(found) != len(wanted) else ""


def _strike(process: Any, folder: Path, kill: Kill, line: int, rng: random.Random) -> None:
    if kill is Kill.SAVING:
        _await(lambda: not process.is_alive() or (num_lines(folder) >= line and _is_saving(folder)), 120)
        send_at(process, folder, line, rng.uniform(0, 0.004), signal.SIGKILL)
    else:
        number = {Kill.TERM: signal.SIGTERM, Kill.INT: signal.SIGINT}.get(kill, signal.SIGKILL)
        send_at(process, folder, line, rng.uniform(0, 0.03), number)


def _strike_ranks(process: Any, folder: Path, kill: RankKill, line: int, rng: random.Random) -> bool:
    if kill is RankKill.SAVING:
        _await(lambda: process.poll() is not None or (num_lines(folder) >= line and _is_saving(folder)), 120)
        return send_at(process, folder, line, rng.uniform(0, 0.004), signal.SIGKILL, to_group=True)
    if kill is RankKill.SECOND:
        _await(lambda: process.poll() is not None or num_lines(folder) >= line, 120)
        others = [pid for pid in _ranks(process.pid) if pid != process.pid]
        if not others:
            return False
        os.kill(others[0], signal.SIGKILL)
        return True
    number = {RankKill.TERM: signal.SIGTERM, RankKill.INT: signal.SIGINT}.get(kill, signal.SIGKILL)
    to_group = kill in (RankKill.BOTH, RankKill.INT)
    return send_at(process, folder, line, rng.uniform(0, 0.03), number, to_group=to_group)


def _is_saving(folder: Path) -> bool:
    return any((folder / "states").glob(".*.partial"))


def _ranks(group: int) -> list[int]:
    """The living processes of a group that train."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, its_group = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:3]
            command = (entry / "cmdline").read_bytes()
        except OSError:  # it has ended meanwhile
            continue
        if int(its_group) == group and state != "Z" and b"resume_runs" in command:
            found.append(int(entry.name))
    return found


def _await(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing happened within {seconds} s")
        time.sleep(0.0005)


def _entry(outcomes: Sequence[Outcome]) -> str:
    failed = sorted({o.difference for o in outcomes if o.difference})
    return f"{'; '.join(failed) or 'equal'} ({sum(o.num_hits for o in outcomes)})"


def main() -> None:
    """Run everything and print the table; ends with 1 where an end differs."""
    rng = random.Random(0)
    found: dict[str, dict[str, list[Outcome]]] = {}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        for objective, accumulates in itertools.product(BATCH_SIZES, (False, True)):
            run_through(root / f"{objective}-{accumulates}", objective, accumulates=accumulates)
        for number, cell in enumerate(track(CELLS, "One process")):
            row = found.setdefault(cell.objective, {})
            through = root / f"{cell.objective}-{cell.accumulates}"
            row.setdefault(cell.kill, []).append(run_cell(cell, root / str(number), through, rng))
        for objective in track(BATCH_SIZES, "Two ranks"):
            through = root / f"{objective}-ranks"
            assert start_two_ranks(through, objective).wait() == 0
            outcome = run_ranks(objective, root / f"{objective}-killed", through, rng)
            found.setdefault(f"{objective}, two ranks", {})["any"] = [outcome]
    columns = [*Kill, "any"]
    print(f"| | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}", sep="\n")
    for title, row in found.items():
        print(f"| {title} | {' | '.join(_entry(row[c]) if c in row else '' for c in columns)} |")
    outcomes = [outcome for row in found.values() for made in row.values() for outcome in made]
    print(
        f"\n{sum(o.num_hits for o in outcomes)} kills, {sum(o.num_torn for o in outcomes)} of which left a torn state"
    )
    sys.exit(any(o.difference for o in outcomes))


if __name__ == "__main__":
    main()
