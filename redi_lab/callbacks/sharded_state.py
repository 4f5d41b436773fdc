"""Tensors of a training state that no rank holds whole: their rows, in a safetensors file of each rank.

In the state itself an empty tensor of the meta device stands for each. What was saved by any number of ranks can be
read by any other, sharded or not.
"""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, final

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from redi_lab.backbone.sharding import part

_FILES = "rows-*.safetensors"


def save_rows(state: Any, folder: Path, rank: int) -> Any:
    """Write this rank's rows of what is sharded in a state of dictionaries and lists; the state with stand-ins."""
    rows: dict[str, Tensor] = {}
    stripped = _strip(state, "", rows)
    if rows:
        save_file(rows, folder / _FILES.replace("*", f"{rank:05}"))
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
    """The files of a folder that `save_rows` has written, if there are any; a context."""

    def __init__(self, folder: Path) -> None:
        self._paths = sorted(folder.glob(_FILES))
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._files = [self._stack.enter_context(safe_open(path, framework="pt")) for path in self._paths]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

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
