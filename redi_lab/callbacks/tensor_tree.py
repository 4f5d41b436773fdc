"""Nested state dictionaries as plain JSON and a flat dictionary of tensors, and back, without pickle."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor

_TENSOR: Final = "$tensor"
_TUPLE: Final = "$tuple"
_ITEMS: Final = "$items"  # of a mapping whose keys are not all plain texts
_INLINE: Final = "$inline"


def flatten_tree(tree: Any, *, inline: bool = False) -> tuple[Any, dict[str, Tensor]]:
    """Split a tree of dicts, lists, tuples, numbers, texts, None and tensors.

    Args:
        tree: what to split.
        inline: write tensors of bytes into the JSON itself; for a handful of small ones.

    Returns:
        What `json.dump` takes, and tensors on the CPU that share no memory with each other.

    Raises:
        TypeError: something else is in the tree; the message says where.
    """
    tensors: dict[str, Tensor] = {}
    storages: set[int] = set()

    def encode(node: Any, path: str) -> Any:
        if isinstance(node, Tensor):
            if inline:
                return {_INLINE: node.tolist(), "dtype": str(node.dtype).removeprefix("torch.")}
            tensors[path] = _own(node, storages)
            return {_TENSOR: path}
        if node is None or isinstance(node, bool | int | float | str):
            return node
        if isinstance(node, tuple):
            return {_TUPLE: [encode(value, f"{path}/{i}") for i, value in enumerate(node)]}
        if isinstance(node, list):
            return [encode(value, f"{path}/{i}") for i, value in enumerate(node)]
        if isinstance(node, dict):
            return _encode_dict(node, path, encode)
        raise TypeError(f"{path.lstrip('/') or 'the state'}: cannot store a {type(node).__name__} without pickle")

    return encode(tree, ""), tensors


def unflatten_tree(content: Any, tensors: dict[str, Tensor]) -> Any:
    """The tree that `flatten_tree` split."""
    if isinstance(content, list):
        return [unflatten_tree(value, tensors) for value in content]
    if not isinstance(content, dict):
        return content
    if _TENSOR in content:
        return tensors[content[_TENSOR]]
    if _INLINE in content:
        return torch.tensor(content[_INLINE], dtype=getattr(torch, content["dtype"]))
    if _TUPLE in content:
        return tuple(unflatten_tree(value, tensors) for value in content[_TUPLE])
    if _ITEMS in content:
        return {key: unflatten_tree(value, tensors) for key, value in content[_ITEMS]}
    return {key: unflatten_tree(value, tensors) for key, value in content.items()}


def _encode_dict(node: dict[Any, Any], path: str, encode: Any) -> Any:
    values = {key: encode(value, f"{path}/{key}") for key, value in node.items()}
    if all(isinstance(key, str) and not key.startswith("$") for key in values):
        return values
    wrong = next((key for key in values if not isinstance(key, str | int | bool | None)), None)
    if wrong is not None:
        raise TypeError(f"{path.lstrip('/') or 'the state'}: cannot store a key of type {type(wrong).__name__}")
    return {_ITEMS: [[key, value] for key, value in values.items()]}


def _own(tensor: Tensor, storages: set[int]) -> Tensor:
    """A contiguous one on the CPU, in memory that no other of the tree uses: safetensors would refuse."""
    plain = tensor.detach().cpu().contiguous()
    place = plain.untyped_storage().data_ptr()
    if place in storages or plain.untyped_storage().nbytes() != plain.nbytes:
        plain = plain.clone()
    storages.add(plain.untyped_storage().data_ptr())
    return plain
