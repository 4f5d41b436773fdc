"""Checks a model folder before and after it is loaded: files are whole, and all weights came from them.

Weights are read from safetensors alone, which hold numbers; a pickle would run code. transformers fills weights that it
does not find with random ones and a mere warning, so what it reports is checked here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from redi_lab.errors import UserError, in_short

_INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_AGAIN = "copy the folder again"


def check_folder(folder: Path, key: str) -> None:
    """Check the files of a Hugging Face folder without loading the model.

    Args:
        folder: with config.json and *.safetensors.
        key: of the configuration, for the message.

    Raises:
        UserError: a file is missing or damaged, a pipe or a device, the weights are a pickle or an adapter's, or hold
            NaN or infinity.
    """
    place = f"{key}={folder}"
    for path in folder.iterdir():
        if not path.is_file() and not path.is_dir():
            raise UserError(f"{place}: {path.name} is not a regular file; {_AGAIN}")
    if not isinstance(_json_object(folder / "config.json", place).get("model_type"), str):
        raise UserError(f"{place}: config.json names no model_type; give the folder of a transformers model")
    found = {path.name for path in folder.glob("*.safetensors")} - {"adapter_model.safetensors"}
    if not found:
        raise UserError(f"{place}: *.safetensors is missing; {_instead(folder)}")
    if (folder / _INDEX).is_file():
        shards = _json_object(folder / _INDEX, place).get("weight_map")
        if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
            raise UserError(f"{place}: {_INDEX} has no weight_map of file names; {_AGAIN}")
        if lost := sorted(set(shards.values()) - found):
            raise UserError(f"{place}: {_INDEX} names {lost[0]}, which is missing; {_AGAIN}")
    for name in sorted(found):
        _check_numbers(folder / name, place)


def _check_numbers(file: Path, place: str) -> None:
    try:
        with safe_open(file, framework="pt") as weights:
            names = list(weights.keys())
            broken = next((name for name in names if not _is_finite(weights.get_tensor(name))), None)
    except (SafetensorError, OSError) as error:
        reason = in_short(error)
        raise UserError(f"{place}: {file.name} is not a complete safetensors file ({reason}); {_AGAIN}") from error
    if broken is not None:
        raise UserError(f"{place}: {broken} in {file.name} holds NaN or infinity; give an earlier checkpoint")


def _is_finite(tensor: torch.Tensor) -> bool:
    """Without a copy of it: a sum or `isfinite` would need one."""
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    wide = tensor if tensor.element_size() > 1 else tensor.float()
    return all(bool(torch.isfinite(bound)) for bound in torch.aminmax(wide))


def _instead(folder: Path) -> str:
    if (folder / "adapter_config.json").is_file():
        return "it holds an adapter: merge that into its base model (peft's merge_and_unload) and save both"
    if any(path for pattern in _PICKLES for path in folder.glob(pattern)):
        return "it holds a pickle, which could run code and is never loaded: save it anew as safetensors"
    return "give a complete Hugging Face folder"


def _json_object(path: Path, place: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:  # the last for thousands of nested brackets
        raise UserError(f"{place}: {path.name} cannot be read ({in_short(error)}); {_AGAIN}") from error
    if not isinstance(content, dict):
        raise UserError(f"{place}: {path.name} does not hold a JSON object; {_AGAIN}")
    return content


def check_loaded(found: Mapping[str, Any], place: str) -> None:
    """Refuse weights that transformers replaced by random ones.

    Args:
        found: the loading info of `from_pretrained(..., ignore_mismatched_sizes=True, output_loading_info=True)`.
        place: what was loaded, for the message.

    Raises:
        UserError: a tensor is missing, or has another shape than config.json says.
    """
    for name, stored, wanted in sorted(found["mismatched_keys"]):
        raise UserError(
            f"{place}: {name} has shape {tuple(stored)}, config.json says {tuple(wanted)}; the folder's files"
            " do not belong together"
        )
    missing = sorted(found["missing_keys"])
    if missing:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        raise UserError(f"{place}: the weights of {missing[0]}{more} are missing; give a complete checkpoint")


def vocabulary_size(tokenizer: Any) -> int:
    """The rows that a model needs: more than there are tokens, where the vocabulary leaves numbers out."""
    return 1 + max(map(int, tokenizer.get_vocab().values()))


def check_vocabulary(model: Any, tokenizer: Any, place: str) -> None:
    """Check that every token of the tokenizer has a row in the model.

    Raises:
        UserError: the tokenizer has more tokens, or numbers that are beyond the model's.
    """
    size = vocabulary_size(tokenizer)
    for part, layer in (("embedding", model.get_input_embeddings()), ("LM head", model.get_output_embeddings())):
        rows = layer.weight.shape[0]
        if size > rows:
            raise UserError(
                f"{place}: the tokenizer has {size} tokens, the model's {part} {rows}; give the"
                " tokenizer that the model was trained with"
            )
