"""The whole state of a training run in a folder: what a run needs to go on as if nothing had happened.

    save_state(trainer, module, folder)  # appears whole or not at all
    load_state(trainer, module, folder)  # policy, optimizer and schedule: what a rollback needs
    restore_callbacks(trainer, folder); restore_random_state(trainer, folder)  # what a resume needs as well

`policy.pt` holds weights, optimizer and schedule, `callbacks.pt` position, metrics and callbacks, `rng-RANK.pt` the
random-number generators of each rank, `rows-RANK.safetensors` what is sharded among the ranks, and `manifest.json`,
written last, the SHA-256 of them all. All are loaded with `weights_only`, so nothing in them is executed. Frozen
parameters are left out: the stage's start gives them. An empty tensor of the meta device stands for what is sharded,
which any number of ranks can read again, sharded or not.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, final

import numpy as np
import pytorch_lightning as pl
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from redi_lab.backbone.sharding import part
from redi_lab.files import file_digest, partial_of, replacing_folder

MANIFEST = "manifest.json"
_POLICY, _CALLBACKS, _ROWS = "policy.pt", "callbacks.pt", "rows-*.safetensors"
FORMAT = 2
"""Raised when states of an older version can no longer be read."""


class DamagedStateError(ValueError):
    """A folder does not hold a whole state; the message says why."""


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
        pickle.UnpicklingError: a callback's state holds more than tensors, numbers, texts and containers of them.
    """
    barrier, what = trainer.strategy.barrier, f"the state of training at step {trainer.global_step}"
    is_first = trainer.is_global_zero
    policy = _policy_state(trainer, module)
    place = replacing_folder(folder, _num_bytes(policy), what) if is_first else nullcontext(partial_of(folder))
    with place as partial:
        barrier("state_folder")
        _write(partial / f"rng-{trainer.global_rank}.pt", _random_state())
        policy = save_rows(policy, partial, trainer.global_rank)
        if is_first:
            _write(partial / _POLICY, policy)
            _write(partial / _CALLBACKS, _callback_state(trainer))
            _read(partial / _CALLBACKS)  # what could not be read back has to fail now, not when it is needed
        barrier("state_files")
        if is_first:
            hashes = {path.name: file_digest(path) for path in sorted(partial.iterdir())}
            (partial / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": hashes}), encoding="utf-8")
    barrier("state_saved")


def load_state(trainer: pl.Trainer, module: pl.LightningModule, folder: Path) -> None:
    """Put policy, optimizer and learning-rate schedule back as they were; training goes on with the next batch.

    Raises:
        DamagedStateError: the folder is not whole, or belongs to another model; nothing was changed.
    """
    verify_state(folder)
    state = _read(folder / _POLICY)
    own, saved = dict(_trained(module)), state["policy"]
    if {name: t.shape for name, t in own.items()} != {name: t.shape for name, t in saved.items()}:
        raise DamagedStateError(f"{folder}: the state of another model")
    rows = SavedRows(folder)
    with torch.no_grad():
        for name, tensor in own.items():
            part(tensor).copy_(part(rows.restored(saved[name], tensor, f"/policy/{name}")))
        for number, optimizer in enumerate(trainer.strategy.optimizers):
            content = state["optimizers"][number]
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            for index, moments in content["state"].items():
                path = f"/optimizers/{number}/state/{index}"
                for key, value in moments.items():
                    moments[key] = rows.restored(value, parameters[index], f"{path}/{key}")
            optimizer.load_state_dict(content)
    for config, content in zip(trainer.lr_scheduler_configs, state["schedules"], strict=True):
        config.scheduler.load_state_dict(content)


def restore_callbacks(trainer: pl.Trainer, folder: Path) -> None:
    """Give every callback the state that it had, and the metrics that callbacks look at; `folder` is a verified one.

    Callbacks that are new begin afresh.
    """
    state = _read(folder / _CALLBACKS)
    for callback in trainer.callbacks:
        if callback.state_key in state["callbacks"]:
            callback.load_state_dict(state["callbacks"][callback.state_key])
    trainer.callback_metrics.update(state["metrics"])


def restore_random_state(trainer: pl.Trainer, folder: Path) -> None:
    """Set the generators of Python, NumPy and torch (each device) as they were on this rank of a verified folder.

    A rank that the folder does not know, since there were fewer, keeps those that it has.
    """
    path = folder / f"rng-{trainer.global_rank}.pt"
    if not path.exists():
        return
    state = _read(path)
    random.setstate(state["python"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def read_position(folder: Path) -> Position:
    """Where training stood, by a verified folder."""
    return Position(**_read(folder / _CALLBACKS)["position"])


def verify_state(folder: Path) -> None:
    """Check every file against the manifest.

    Raises:
        DamagedStateError: one is missing, changed, or of a format that can no longer be read.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DamagedStateError(f"{folder / MANIFEST}: missing or damaged ({error})") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DamagedStateError(f"{folder}: not a state of format {FORMAT}")
    for name, digest in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise DamagedStateError(f"{path}: missing")
        if file_digest(path) != digest:
            raise DamagedStateError(f"{path}: its content changed since it was written")


def _policy_state(trainer: pl.Trainer, module: pl.LightningModule) -> dict[str, Any]:
    return {
        "policy": {name: tensor.detach() for name, tensor in _trained(module)},
        "optimizers": [optimizer.state_dict() for optimizer in trainer.strategy.optimizers],
        "schedules": [config.scheduler.state_dict() for config in trainer.lr_scheduler_configs],
    }


def _callback_state(trainer: pl.Trainer) -> dict[str, Any]:
    return {
        "position": asdict(Position.of(trainer)),
        "metrics": dict(trainer.callback_metrics),
        "callbacks": {c.state_key: state for c in trainer.callbacks if (state := c.state_dict())},
    }


def _trained(module: pl.LightningModule) -> Iterator[tuple[str, Tensor]]:
    """What training changes: trainable parameters (tied ones once) and buffers that are part of the model."""
    yield from ((name, p) for name, p in module.named_parameters() if p.requires_grad)
    persistent = module.state_dict().keys()
    yield from ((name, buffer) for name, buffer in module.named_buffers() if name in persistent)


def _num_bytes(policy: dict[str, Any]) -> int:
    moments = (m for content in policy["optimizers"] for state in content["state"].values() for m in state.values())
    return sum(tensor.nbytes for tensor in (*policy["policy"].values(), *moments) if isinstance(tensor, Tensor))


def _random_state() -> dict[str, Any]:
    state: tuple[Any, ...] = np.random.get_state(legacy=True)  # type: ignore[assignment]
    name, keys, *rest = state
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _write(path: Path, content: dict[str, Any]) -> None:
    with path.open("wb") as file:  # given a path, torch writes in C++, whose error does not say that the disk is full
        torch.save(content, file)


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return content


def save_rows(state: Any, folder: Path, rank: int) -> Any:
    """Write this rank's rows of what is sharded in a state of dictionaries and lists; the state with stand-ins."""
    rows: dict[str, Tensor] = {}
    stripped = _strip(state, "", rows)
    if rows:
        save_file(rows, folder / _ROWS.replace("*", f"{rank:05}"))
    return stripped


def _strip(state: Any, path: str, rows: dict[str, Tensor]) -> Any:
    if isinstance(state, dict):
        return {key: _strip(value, f"{path}/{key}", rows) for key, value in state.items()}
    if isinstance(state, list):
        return [_strip(value, f"{path}/{index}", rows) for index, value in enumerate(state)]
    if not isinstance(state, DTensor):
        return state
    rows[path] = part(state.detach())
    return torch.empty(state.shape, dtype=state.dtype, device="meta")


@final
class SavedRows:
    """The files of a folder that `save_rows` has written, if there are any; they are mapped into memory."""

    def __init__(self, folder: Path) -> None:
        self._files: list[Any] = [safe_open(path, framework="pt") for path in sorted(folder.glob(_ROWS))]

    def restored(self, saved: Any, place: Tensor, path: str) -> Any:
        """What was saved under a path, in the form of `place`: sharded as that is, or whole.

        Args:
            saved: as `save_rows` has left it. What has another shape than `place`, as a count of steps, stays as it is.
            place: where it belongs.
            path: keys and indices from the root of the state.
        """
        if not isinstance(saved, Tensor) or saved.shape != place.shape:
            return saved
        if not isinstance(place, DTensor):
            return self._rows(path, 0, len(saved)) if saved.is_meta else saved
        mesh, num_rows = place.device_mesh, len(part(place))
        start = min(len(saved), mesh.get_local_rank() * -(-len(saved) // mesh.size()))
        found = torch.empty_like(place, dtype=saved.dtype)
        part(found).copy_(self._rows(path, start, num_rows) if saved.is_meta else saved[start : start + num_rows])
        return found

    def _rows(self, path: str, start: int, num_rows: int) -> Tensor:
        """Some rows of a tensor that lies in all files, one behind the other."""
        found: list[Tensor] = []
        offset = 0
        for file in self._files:
            rows = file.get_slice(path)
            stored = rows.get_shape()[0]
            first, end = max(start - offset, 0), min(start + num_rows - offset, stored)
            if first < end or not found:  # an empty piece, too, knows the width
                found.append(rows[first : max(first, end)])
            offset += stored
        return torch.cat(found)
