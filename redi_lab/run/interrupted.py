"""Runs that end early and go on: found again by the command that began them, or named with `resume=RUN_DIR`.

`run.json` in a run's folder says which command began it and what identifies its stages. While a run is unfinished, a
note in the cache leads from the command (its whole configuration, the folder's time stamp aside) to the folder. Nothing
here imports torch: the command line reads a run before anything heavy loads.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Protocol, final

import filelock
from omegaconf import DictConfig, OmegaConf

from redi_lab.config.overrides import quoted
from redi_lab.errors import RunInterruptedError, UserError
from redi_lab.files import explained, naming, write_text
from redi_lab.redaction import redacted

RECORD = "run.json"
AUTO, NEVER = "auto", "never"
LOCK = ".run.lock"
_SUMMARY, _METRICS = "summary.json", "metrics.jsonl"


class IdentifiedStage(Protocol):
    """What is asked of a stage."""

    @property
    def name(self) -> str:
        """Of its experiment."""

    @property
    def fingerprint(self) -> str:
        """Of its result."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """What the fingerprint is made of."""


@final
@dataclass
class Run:
    """The content of `run.json`.

    Attributes:
        overrides: of the command that began the run.
        working_dir: where it was given.
        paths: resolved folders of the paths group.
        stages: name to identity, in order.
        parent_run_id: the command's MLflow run, None where there is none.
    """

    overrides: list[str]
    working_dir: str
    paths: dict[str, str]
    stages: dict[str, Any]
    parent_run_id: str | None = None
    folder: Path = field(default_factory=Path)

    def remember_parent(self, run_id: str | None) -> None:
        """Keep the command's MLflow run, under which a resumed run goes on."""
        self.parent_run_id = run_id
        self.save()

    def save(self) -> None:
        """Replace `run.json`, whole or not at all."""
        content = {key: value for key, value in asdict(self).items() if key != "folder"}
        write_json(self.folder / RECORD, content)


def read_run(folder: Path) -> Run:
    """Read `run.json`.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = folder / RECORD
    try:
        run = Run(**json.loads(path.read_text(encoding="utf-8")), folder=folder)
        _check_record(run)
        return run
    except FileNotFoundError:
        raise UserError(f"resume={folder}: no {RECORD} there; name the results folder of an interrupted run") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({error}); start the run anew with resume={NEVER}") from error


def _check_record(run: Run) -> None:
    """Check the types of what a file says.

    Raises:
        TypeError: one is another.
        ValueError: a number is NaN or infinite.
    """
    if not isinstance(run.overrides, list) or not isinstance(run.stages, dict) or not isinstance(run.paths, dict):
        raise TypeError("its overrides, paths or stages are of another kind")
    json.dumps(run.stages, allow_nan=False)
    texts = [*run.overrides, run.working_dir, *run.paths, *run.paths.values()]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("its overrides, working_dir or paths hold what is no text")


def recorded_overrides(overrides: Sequence[str]) -> list[str]:
    """What `resume=RUN_DIR` stands for: the overrides of that run, where they were given, and then the further ones.

    Changes the working directory to the run's, so that relative paths mean what they meant.

    Raises:
        UserError: the folder holds no interrupted run.
    """
    named = [override.partition("=")[2] for override in overrides if override.startswith("resume=")]
    if not named or named[-1] in (AUTO, NEVER):
        return list(overrides)
    folder = Path(named[-1]).absolute()
    run = read_run(folder)
    if (folder / _SUMMARY).exists():
        raise UserError(f"resume={folder}: that run is finished")
    if not Path(run.working_dir).is_dir():
        raise UserError(f"resume={folder}: the run was started in {run.working_dir}, which is gone; make it again")
    os.chdir(run.working_dir)
    own = [o for o in run.overrides if not o.startswith(("resume=", "paths."))]
    paths = [f"paths.{name}={quoted(value)}" for name, value in (run.paths | {"output_dir": str(folder)}).items()]
    return [*own, *(o for o in overrides if not o.startswith("resume=")), *paths]


@contextmanager
def running(config: DictConfig, overrides: Sequence[str], chain: Sequence[IdentifiedStage]) -> Iterator[Run]:
    """The time of a run: it has its folder for itself, and what interrupts it is told.

    Args:
        config: composed; `paths.output_dir` becomes that of the interrupted run where there is one.
        overrides: those that made it.
        chain: the stages.

    Raises:
        UserError: the folder holds another run, is being written, cannot be made, or the disk is full.
        RunInterruptedError: SIGTERM or SIGINT.
    """
    note = _note_of(config)
    is_named = any(override.startswith("paths.output_dir=") for override in overrides)
    found = None if is_named or config.resume != AUTO else _interrupted(note, chain)
    named = Path(config.paths.output_dir).absolute()
    folder = named if is_named else found or _unused(named)
    config.paths.output_dir = str(folder)
    with _locked(folder):
        run = _open(config, overrides, chain, folder)
        if not is_named:
            write_json(note, {"folder": str(folder)})
        try:
            with _told(folder):
                yield run
        except UserError:
            _withdraw(folder, note)
            raise
        note.unlink(missing_ok=True)


def _withdraw(folder: Path, note: Path) -> None:
    """Leave nothing of a run that was refused before it wrote anything."""
    ours = {RECORD, LOCK}
    if {path.name for path in folder.iterdir()} <= ours:
        for name in ours:
            (folder / name).unlink(missing_ok=True)
        folder.rmdir()
        note.unlink(missing_ok=True)


def _open(config: DictConfig, overrides: Sequence[str], chain: Sequence[IdentifiedStage], folder: Path) -> Run:
    """The run of a folder, new or continued."""
    stages = _recorded(chain)
    if (folder / _SUMMARY).exists():
        raise UserError(f"paths.output_dir={folder}: already holds a run; name another folder or remove it")
    if (folder / RECORD).exists():
        run = read_run(folder)
        difference = differences(run.stages, stages)
        if difference:
            raise UserError(
                f"{folder}: holds an interrupted run of something else ({difference}); change it back, or name"
                " another folder"
            )
        return run
    if (folder / _METRICS).exists() and folder.name != chain[-1].fingerprint:  # the cache names a stage's folder so
        raise UserError(f"paths.output_dir={folder}: already holds a run; name another folder or remove it")
    paths = {name: str(Path(config.paths[name]).absolute()) for name in ("outputs_dir", "cache_dir")}
    run = Run(list(overrides), os.getcwd(), paths, stages, folder=folder)
    run.save()
    return run


def _recorded(chain: Sequence[IdentifiedStage]) -> dict[str, Any]:
    """What identifies the stages, as `run.json` keeps it: by its hash where a part of it is hidden."""
    whole: dict[str, Any] = json.loads(json.dumps({stage.name: dict(stage.identity) for stage in chain}))
    shown: dict[str, Any] = redacted(whole)
    for stage in chain:
        if shown[stage.name] != whole[stage.name]:
            shown[stage.name]["fingerprint"] = stage.fingerprint
    return shown


def differences(before: Any, after: Any, prefix: str = "") -> str:
    """Where two nested mappings differ, as `key: before → after; …`; empty where they do not."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = [*before, *(key for key in after if key not in before)]
        parts = (differences(before.get(k), after.get(k), f"{prefix}.{k}" if prefix else str(k)) for k in keys)
        return "; ".join(part for part in parts if part)
    return "" if before == after else f"{prefix}: {_short(before)} → {_short(after)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def _note_of(config: DictConfig) -> Path:
    """Where the cache keeps the folder of this command's interrupted run."""
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    content = {str(key): value for key, value in plain.items() if key != "resume"}
    content["paths"] = {"outputs_dir": config.paths.outputs_dir, "cache_dir": config.paths.cache_dir}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
    return Path(config.paths.cache_dir) / "interrupted" / f"{digest[:32]}.json"


def _interrupted(note: Path, chain: Sequence[IdentifiedStage]) -> Path | None:
    """The folder of an interrupted run of the same command, if it can be gone on with; says what it does."""
    try:
        folder = Path(json.loads(note.read_text(encoding="utf-8"))["folder"])
        run = read_run(folder)
    except (OSError, ValueError, KeyError):  # never begun, removed, or torn: a new run
        return None
    if (folder / _SUMMARY).exists() or is_locked(folder / LOCK):
        return None
    difference = differences(run.stages, _recorded(chain))
    if difference:
        print(f"Not resumed: {folder}, begun by the same command, had {difference}")
        return None
    print(f"Resuming:   {folder} (resume={NEVER} starts anew)")
    return folder


def noted_folders(cache_dir: Path) -> set[Path]:
    """The folders of unfinished runs that the commands which began them would continue."""
    found = set()
    for note in (cache_dir / "interrupted").glob("*.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):  # removed meanwhile, or torn
            found.add(Path(json.loads(note.read_text(encoding="utf-8"))["folder"]).resolve())
    return found


def _unused(folder: Path) -> Path:
    """The folder, or one with a number where another run began in the same second."""
    candidates = (folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, 1000)))
    return next(candidate for candidate in candidates if not candidate.exists())


def is_locked(lock: Path) -> bool:
    """Whether a process holds the lock of this file."""
    try:
        with filelock.FileLock(lock, timeout=0):
            return False
    except filelock.Timeout:
        return True


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"paths.output_dir={folder}: cannot be made ({error.strerror}); name another folder") from error
    lock = filelock.FileLock(folder / LOCK, timeout=0, thread_local=False)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UserError(f"{folder} is being written by another run; choose another folder") from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def interruptible(how_to_go_on: str) -> Iterator[None]:
    """SIGTERM and SIGINT end what runs inside with a `RunInterruptedError` that says how to go on."""

    def interrupt(number: int, _: FrameType | None) -> None:
        raise RunInterruptedError(signal.Signals(number).name)

    is_main = threading.current_thread() is threading.main_thread()
    # SIGINT too: Lightning would answer a KeyboardInterrupt with exit status 1 and without a word.
    before = {n: signal.signal(n, interrupt) for n in (signal.SIGTERM, signal.SIGINT)} if is_main else {}
    try:
        yield
    except RunInterruptedError as error:
        raise RunInterruptedError(f"{error}; to go on, {how_to_go_on}") from error
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _told(folder: Path) -> Iterator[None]:
    """Interruptions and a full disk as one line that says how to go on. Training itself notes signals and saves."""
    go_on = f"give the same command again, or: redi-lab resume={folder}"
    try:
        with interruptible(go_on), naming(folder):
            yield
    except Exception as error:
        if (told := explained(error, go_on)) is None:
            raise
        raise told from error


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Replace a file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(redacted(content), indent=1) + "\n", is_synced=True)
