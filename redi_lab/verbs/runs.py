"""What lies below outputs/: runs with their state, score and size, and what of it can be removed.

Three things are safe to remove: training states of what is finished (only training reads them), an interrupted run
whose command has begun another one since, and a stage that was begun on the way to a run that no longer waits for it.
An interrupted run that can still be continued goes only on request. Nothing that a process is writing is touched.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, final

from redi_lab.config.compose import load_config
from redi_lab.config.schema.words import RunsWords, read_words
from redi_lab.errors import UserError
from redi_lab.evaluation.results import content_digest
from redi_lab.files import as_size, is_locked
from redi_lab.run.interrupted import LOCK, RECORD, last_runs, read_runs
from redi_lab.run.record import SUMMARY, read_summary

_STATES = "states"
_DAY = 24 * 3600.0

State = Literal["finished", "running", "interrupted", "abandoned", "damaged"]


@final
@dataclass(frozen=True)
class FoundRun:
    """One run, or one stage that was trained on the way to a run.

    Attributes:
        folder: Where it lies.
        name: The experiment's; of a stage that is not finished, its folder's.
        state: "abandoned": interrupted, and the same command would not continue it. "damaged": its summary is.
        score: pass@1, None without an evaluation.
        size: Bytes of all its files.
        modified: When anything in it last changed, in seconds since the epoch.
        is_stage: Whether it lies in the cache of stages.
    """

    folder: Path
    name: str
    state: State
    score: float | None
    size: int
    modified: float
    is_stage: bool


@final
@dataclass(frozen=True)
class Removable:
    """A folder that can go, why, and how many bytes that frees."""

    folder: Path
    reason: str
    size: int


def run_runs(arguments: Sequence[str]) -> None:
    """The verb: list the runs below outputs/, or say what of them can go and, on request, remove it.

    Raises:
        UserError: an argument is not allowed.
    """
    names, words, overrides = read_words(RunsWords, arguments)
    if names not in ([], ["clean"]):
        raise UserError(f"runs {' '.join(names)}: unknown; runs lists, runs clean shows what can be removed")
    config = load_config("evaluate", ["checkpoint=.", *overrides], check_paths=False)
    outputs = Path(config.paths.outputs_dir)
    found = find_runs(outputs, Path(config.paths.cache_dir))
    if not names:
        for run in found:
            score = "" if run.score is None else f"pass@1 {run.score:.3f}"
            kind = f"{run.state} stage" if run.is_stage else run.state
            changed = time.strftime("%Y-%m-%d %H:%M", time.localtime(run.modified))
            print(f"{changed}  {kind:<17}  {as_size(run.size):>9}  {score:<12}  {run.name}  {run.folder}")
        print(f"{len(found)} runs and stages in {outputs}, {as_size(sum(run.size for run in found))}")
        return
    can_go = removable(found, keep_days=words.keep_days, interrupted=words.interrupted)
    for item in can_go:
        print(f"{as_size(item.size):>9}  {item.folder}  ({item.reason})")
    all_of_it = f"{len(can_go)} folders, {as_size(sum(item.size for item in can_go))}"
    if not words.yes:
        print(f"Can go:     {all_of_it}; nothing was removed (to do it: redi-lab runs clean yes=true)")
        return
    for item in can_go:
        shutil.rmtree(item.folder)
    print(f"Removed:    {all_of_it}")


def find_runs(outputs_dir: Path, cache_dir: Path) -> list[FoundRun]:
    """All runs and stages below a folder, the last changed one last."""
    stages = [path for path in (cache_dir / "stages").glob("*") if path.is_dir()]
    marks = [path for name in (RECORD, SUMMARY) for path in outputs_dir.rglob(name)]
    folders = {path.parent for path in marks} - set(stages)
    records = read_runs(folders)
    awaited = {
        content_digest(identity)[:32]
        for folder, run in records.items()
        if not (folder / SUMMARY).exists()
        for identity in run.stages.values()
    }
    last = {run.folder for run in last_runs(records.values()).values()}
    found = [_view(stage, "interrupted" if stage.name in awaited else "abandoned", True) for stage in stages]
    for folder in folders:
        run = records.get(folder)
        # A command that names its folder finds it by that name, any other the last one that it began.
        is_continued = run is None or not run.command or folder in last
        unfinished: State = "interrupted" if is_continued else "abandoned"
        found.append(_view(folder, unfinished, False))
    return sorted(found, key=lambda run: (run.modified, str(run.folder)))


def _view(folder: Path, unfinished: State, is_stage: bool) -> FoundRun:
    state: State = "finished"
    try:
        summary = read_summary(folder)
    except UserError:
        summary, state = {}, "damaged" if (folder / SUMMARY).exists() else unfinished
    score = (summary.get("metrics") or {}).get("pass_at_1")
    lock = folder.with_suffix(".lock") if is_stage else folder / LOCK
    if is_locked(lock):
        state = "running"
    files = _files(folder)
    return FoundRun(
        folder,
        summary.get("name") or folder.name,
        state,
        score["value"] if isinstance(score, dict) and isinstance(score.get("value"), float) else None,
        _size(files),
        max((file.st_mtime for file in files), default=folder.stat().st_mtime),
        is_stage,
    )


def removable(runs: Sequence[FoundRun], *, keep_days: float = 0.0, interrupted: bool = False) -> list[Removable]:
    """What can go.

    Args:
        runs: from `find_runs`.
        keep_days: leave what changed within this many days.
        interrupted: also interrupted runs that could still be continued.
    """
    found = []
    for run in (run for run in runs if run.modified <= time.time() - keep_days * _DAY):
        states = run.folder / _STATES
        if run.state == "finished" and states.is_dir():
            found.append(Removable(states, "training states of a finished run", _size(_files(states))))
        elif run.state == "abandoned":
            found.append(Removable(run.folder, "interrupted, and its command would not continue it", run.size))
        elif run.state == "interrupted" and interrupted:
            found.append(Removable(run.folder, "interrupted", run.size))
    return found


def _files(folder: Path) -> list[os.stat_result]:
    return [path.stat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]


def _size(files: Sequence[os.stat_result]) -> int:
    return sum(file.st_size for file in files)
