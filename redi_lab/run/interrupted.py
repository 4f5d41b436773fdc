"""Runs that end early and go on: found again by the command that began them, or named with `resume=RUN_DIR`.

What a resumed run needs is in `run.json` of its folder: the command's overrides and where they were given, what
identifies its stages, and a digest of the whole configuration, by which the same command finds the last run that it
began. Nothing here imports torch: the command line reads a run before anything heavy loads.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from omegaconf import DictConfig, OmegaConf
from pydantic import BaseModel, Field

from redi_lab.config.overrides import quoted
from redi_lab.errors import UserError, in_short, interruptible
from redi_lab.files import explained, is_locked, locked, naming
from redi_lab.redaction import redacted
from redi_lab.run.record import SUMMARY, make_output_dir, write_json

if TYPE_CHECKING:
    from redi_lab.run.stages import Stage

RECORD = "run.json"
AUTO, NEVER = "auto", "never"
LOCK = ".run.lock"


@final
class Run(BaseModel, strict=True, extra="forbid", allow_inf_nan=False):
    """The content of `run.json`.

    Attributes:
        overrides: of the command that began the run.
        working_dir: where it was given.
        paths: resolved folders of the paths group.
        stages: name to identity, in order.
        command: digest of the whole configuration, see `_command`; empty for a run whose folder was named.
        began: when, in seconds since the epoch.
        folder: where the file is; not in it.
    """

    overrides: list[str]
    working_dir: str
    paths: dict[str, str]
    stages: dict[str, Any]
    command: str = ""
    began: float = 0.0
    folder: Path = Field(default=Path(), exclude=True)

    def save(self) -> None:
        """Replace `run.json`, whole or not at all."""
        write_json(self.folder / RECORD, self.model_dump())


def read_run(folder: Path) -> Run:
    """Read `run.json`.

    Raises:
        UserError: there is none, or it cannot be read.
    """
    path = folder / RECORD
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        json.dumps(content, allow_nan=False)  # stages are hashed as JSON, which has no NaN
        return Run.model_validate({**content, "folder": folder})
    except FileNotFoundError:
        raise UserError(f"resume={folder}: no {RECORD} there; name the results folder of an interrupted run") from None
    except (OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read ({in_short(error)}); start anew with resume={NEVER}") from error


def read_runs(folders: Iterable[Path]) -> dict[Path, Run]:
    """The runs of these folders by folder; those without a readable `run.json` are passed over."""
    runs = {}
    for folder in folders:
        with suppress(UserError):
            runs[folder] = read_run(folder)
    return runs


def last_runs(runs: Iterable[Run]) -> dict[str, Run]:
    """Of every command, the last run that it began: the one that it would go on with."""
    in_order = sorted((run for run in runs if run.command), key=lambda run: run.began)
    return {run.command: run for run in in_order}


def recorded_overrides(overrides: Sequence[str]) -> list[str]:
    """What `resume=RUN_DIR` stands for: the overrides of that run, and then the further ones.

    Changes the working directory to the run's, so that relative paths mean what they meant.

    Raises:
        UserError: the folder does not hold an interrupted run.
    """
    named = [override.partition("=")[2] for override in overrides if override.startswith("resume=")]
    if not named or named[-1] in (AUTO, NEVER):
        return list(overrides)
    folder = Path(named[-1]).absolute()
    run = read_run(folder)
    if (folder / SUMMARY).exists():
        raise UserError(f"resume={folder}: that run is finished")
    if not Path(run.working_dir).is_dir():
        raise UserError(f"resume={folder}: the run was started in {run.working_dir}, which is gone; make it again")
    os.chdir(run.working_dir)
    own = [o for o in run.overrides if not o.startswith(("resume=", "paths."))]
    paths = [f"paths.{name}={quoted(value)}" for name, value in (run.paths | {"output_dir": str(folder)}).items()]
    return [*own, *(o for o in overrides if not o.startswith("resume=")), *paths]


@contextmanager
def running(config: DictConfig, overrides: Sequence[str], chain: Sequence[Stage]) -> Iterator[Run]:
    """The time of a run: it has its folder to itself, and interruptions and full disks end it with one line.

    Args:
        config: composed; `paths.output_dir` becomes that of the interrupted run if there is one.
        overrides: those that made it.
        chain: the stages.

    Raises:
        UserError: the folder holds another run, is being written, cannot be made, or the disk is full.
        RunInterruptedError: SIGTERM or SIGINT.
    """
    is_named = any(override.startswith("paths.output_dir=") for override in overrides)
    folder = Path(config.paths.output_dir).absolute()
    command = "" if is_named else _command(config)
    if not is_named:
        found = _interrupted(command, folder.parent, chain) if config.resume == AUTO else None
        folder = found or _unused(folder)
    config.paths.output_dir = str(folder)
    make_output_dir(folder)
    with locked(folder / LOCK, f"{folder} is being written by another run; choose another folder"):
        run = _open(config, overrides, chain, folder, command)
        try:
            with ending_in_one_line(folder):
                yield run
        except UserError:
            _withdraw(folder)
            raise


@contextmanager
def ending_in_one_line(folder: Path) -> Iterator[None]:
    """Report interruptions and full disks in one line that says how to go on with the run of a folder."""
    go_on = f"give the same command again, or: redi-lab resume={folder}"
    try:
        with interruptible(go_on), naming(folder):
            yield
    except Exception as error:
        if (advice := explained(error, go_on)) is None:
            raise
        raise advice from error


def _withdraw(folder: Path) -> None:
    """Leave nothing of a run that was refused before it wrote anything."""
    if {path.name for path in folder.iterdir()} <= {RECORD, LOCK}:
        shutil.rmtree(folder)


def _open(config: DictConfig, overrides: Sequence[str], chain: Sequence[Stage], folder: Path, command: str) -> Run:
    """The run of a folder, new or continued."""
    stages = _recorded(chain)
    used = UserError(f"paths.output_dir={folder}: already holds a run; name another folder or remove it")
    if (folder / SUMMARY).exists():
        raise used
    if (folder / RECORD).exists():
        run = read_run(folder)
        if difference := differences(run.stages, stages):
            raise UserError(
                f"{folder}: holds an interrupted run of something else ({difference}); change it back, or name"
                " another folder"
            )
        return run
    if (folder / "metrics.jsonl").exists() and folder.name != chain[-1].fingerprint:  # the cache names a stage so
        raise used
    paths = {name: str(Path(config.paths[name]).absolute()) for name in ("outputs_dir", "cache_dir")}
    run = Run(
        overrides=list(overrides), working_dir=os.getcwd(), paths=paths, stages=stages,
        command=command, began=time.time(), folder=folder,
    )  # fmt: skip
    run.save()
    return run


def _recorded(chain: Sequence[Stage]) -> dict[str, Any]:
    """What identifies the stages, as `run.json` keeps it: by its hash where a part of it is hidden."""
    whole: dict[str, Any] = json.loads(json.dumps({stage.name: dict(stage.identity) for stage in chain}))
    shown: dict[str, Any] = redacted(whole)
    for stage in chain:
        if shown[stage.name] != whole[stage.name]:
            shown[stage.name]["fingerprint"] = stage.fingerprint
    return shown


def differences(before: Any, after: Any, prefix: str = "") -> str:
    """Where two nested mappings differ, as `key: before → after; …`; empty if they do not."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        keys = [*before, *(key for key in after if key not in before)]
        parts = (differences(before.get(k), after.get(k), f"{prefix}.{k}" if prefix else str(k)) for k in keys)
        return "; ".join(part for part in parts if part)
    return "" if before == after else f"{prefix}: {_short(before)} → {_short(after)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:12]}…"


def _command(config: DictConfig) -> str:
    """A digest of the configuration, without the folder of this run, whose name holds the time."""
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    content = {str(key): value for key, value in plain.items() if key != "resume"}
    content["paths"] = {"outputs_dir": config.paths.outputs_dir, "cache_dir": config.paths.cache_dir}
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def _interrupted(command: str, place: Path, chain: Sequence[Stage]) -> Path | None:
    """The folder of the last run of the same command if it is unfinished and can go on; prints what was found."""
    run = last_runs(read_runs(path.parent for path in place.glob(f"*/{RECORD}")).values()).get(command)
    if run is None or (run.folder / SUMMARY).exists() or is_locked(run.folder / LOCK):
        return None
    if difference := differences(run.stages, _recorded(chain)):
        print(f"Not resumed: {run.folder}, begun by the same command, had {difference}")
        return None
    print(f"Resuming:   {run.folder} (resume={NEVER} starts anew)")
    return run.folder


def _unused(folder: Path) -> Path:
    """The folder, or one with a number if another run began in the same second."""
    candidates = (folder, *(folder.with_name(f"{folder.name}-{number}") for number in range(2, 1000)))
    return next(candidate for candidate in candidates if not candidate.exists())
