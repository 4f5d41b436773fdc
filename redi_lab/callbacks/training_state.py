"""The whole state of a training run in a folder: what a run needs to go on as if nothing had happened.

    save_state(trainer, module, folder)  # appears whole or not at all
    load_state(trainer, module, folder)  # policy, optimizer and schedule: what a rollback wants
    restore_callbacks(trainer, folder); restore_random_state(trainer, folder)  # what a resume wants besides

`state.json` holds numbers and structure, `tensors.safetensors` what is a tensor, `rng-RANK.json` the random-number
generators of each rank, and `manifest.json`, written last, the SHA-256 of them all. There is no pickle.
Frozen parameters are not in it: the stage's start gives them, and its fingerprint vouches for them.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, final

import numpy as np
import pytorch_lightning as pl
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from redi_lab.callbacks.disk import writing
from redi_lab.callbacks.tensor_tree import flatten_tree, unflatten_tree
from redi_lab.files import sync

MANIFEST = "manifest.json"
_STATE, _TENSORS = "state.json", "tensors.safetensors"
FORMAT = 1
"""Raised when an older state could not be read any more."""


class DamagedStateError(ValueError):
    """A folder holds no whole state; the message says why."""


@final
@dataclass(frozen=True)
class Position:
    """Between which two batches a state was saved.

    Attributes:
        epoch: epochs that are done.
        batch: batches of the running epoch that are done.
        total_batches: batches of all epochs that are done; one more than the last step that train/ was logged under.
        global_step: optimizer steps taken: as many, less those that were skipped.
    """

    epoch: int
    batch: int
    total_batches: int
    global_step: int

    @classmethod
    def of(cls, trainer: pl.Trainer) -> Self:
        """Where training stands as a batch begins: everything that belongs to the one before it is done."""
        loop = trainer.fit_loop.epoch_loop
        return cls(
            epoch=trainer.current_epoch,
            batch=loop.batch_progress.current.completed,
            total_batches=loop._batches_that_stepped,
            global_step=trainer.global_step,
        )


def save_state(trainer: pl.Trainer, module: pl.LightningModule, folder: Path) -> None:
    """Write the state of training as it stands between two steps; every rank has to call this.

    Args:
        trainer: the running one.
        module: what it trains.
        folder: the new folder; one of that name is replaced.

    Raises:
        UserError: the disk is full; whatever was in the folder's place is untouched.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    content, tensors = flatten_tree(_state(trainer, module)) if trainer.is_global_zero else (None, {})
    size = sum(tensor.nbytes for tensor in tensors.values())
    with writing(folder.parent, size, f"the state of training at step {trainer.global_step}", partial):
        if trainer.is_global_zero:
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        trainer.strategy.barrier("state_folder")
        _write_json(partial / f"rng-{trainer.global_rank}.json", flatten_tree(_random_state(), inline=True)[0])
        if trainer.is_global_zero:
            save_file(tensors, partial / _TENSORS)
            sync(partial / _TENSORS)
            _write_json(partial / _STATE, content)
        trainer.strategy.barrier("state_files")
        if trainer.is_global_zero:
            hashes = {path.name: _sha256(path) for path in sorted(partial.iterdir())}
            _write_json(partial / MANIFEST, {"format": FORMAT, "files": hashes})
            sync(partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
            sync(folder.parent)
    trainer.strategy.barrier("state_saved")


def load_state(trainer: pl.Trainer, module: pl.LightningModule, folder: Path) -> None:
    """Put policy, optimizer and learning-rate schedule back as they were; training goes on with the next batch.

    Raises:
        DamagedStateError: the folder is not whole, or belongs to another model; nothing was changed.
    """
    verify_state(folder)
    state = _read_parts(folder, "policy", "optimizers", "schedules")
    own, saved = dict(_trained(module)), state["policy"]
    if {name: t.shape for name, t in own.items()} != {name: t.shape for name, t in saved.items()}:
        raise DamagedStateError(f"{folder}: the state of another model")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(saved[name])
    for optimizer, content in zip(trainer.strategy.optimizers, state["optimizers"], strict=True):
        optimizer.load_state_dict(content)
    for config, content in zip(trainer.lr_scheduler_configs, state["schedules"], strict=True):
        config.scheduler.load_state_dict(content)


def restore_callbacks(trainer: pl.Trainer, folder: Path) -> None:
    """Give every callback the state that it had, and the metrics that callbacks look at; `folder` is a verified one.

    Callbacks that are new begin afresh.
    """
    state = _read_parts(folder, "callbacks", "metrics")
    for callback in trainer.callbacks:
        if callback.state_key in state["callbacks"]:
            callback.load_state_dict(state["callbacks"][callback.state_key])
    trainer.callback_metrics.update(state["metrics"])


def restore_random_state(trainer: pl.Trainer, folder: Path) -> None:
    """Set the generators of Python, NumPy and torch (each device) as they were on this rank of a verified folder."""
    state = unflatten_tree(_read_json(folder / f"rng-{trainer.global_rank}.json"), {})
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def read_position(folder: Path) -> Position:
    """Where training stood.

    Raises:
        DamagedStateError: it is not in the folder.
    """
    try:
        return Position(**_read_json(folder / _STATE)["position"])
    except (KeyError, TypeError) as error:
        raise DamagedStateError(f"{folder / _STATE}: no position in it") from error


def verify_state(folder: Path) -> None:
    """Hold every file against the manifest.

    Raises:
        DamagedStateError: one is missing, changed, or of a format that is not read any more.
    """
    manifest = _read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DamagedStateError(f"{folder}: not a state of format {FORMAT}")
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise DamagedStateError(f"{path}: missing")
        if _sha256(path) != digest:
            raise DamagedStateError(f"{path}: its content changed since it was written")


def _read_parts(folder: Path, *parts: str) -> dict[str, Any]:
    """Some of the state's top-level entries, with their tensors alone."""
    content = {part: value for part, value in _read_json(folder / _STATE).items() if part in parts}
    with safe_open(folder / _TENSORS, framework="pt") as file:
        wanted = [name for name in file.offset_keys() if name.split("/")[1] in parts]
        tensors = {name: file.get_tensor(name) for name in wanted}
    state: dict[str, Any] = unflatten_tree(content, tensors)
    return state


def _state(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    return {
        "position": asdict(Position.of(trainer)),
        "policy": dict(_trained(module)),
        "optimizers": [optimizer.state_dict() for optimizer in trainer.strategy.optimizers],
        "schedules": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
        "metrics": dict(trainer.callback_metrics),
        "callbacks": {c.state_key: state for c in trainer.callbacks if (state := c.state_dict())},
    }


def _trained(module: pl.LightningModule) -> Iterator[tuple[str, Tensor]]:
    """What training changes: trainable parameters (tied ones once) and buffers that are part of the model."""
    yield from ((name, p) for name, p in module.named_parameters() if p.requires_grad)
    persistent = module.state_dict().keys()
    yield from ((name, buffer) for name, buffer in module.named_buffers() if name in persistent)


def _random_state() -> dict[str, Any]:
    state: tuple[Any, ...] = np.random.get_state(legacy=True)  # type: ignore[assignment]
    name, keys, *rest = state
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _write_json(path: Path, content: Any) -> None:
    with path.open("w", encoding="utf-8") as file:
        json.dump(content, file)
        file.flush()
        os.fsync(file.fileno())


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DamagedStateError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise DamagedStateError(f"{path}: not JSON") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
