"""Tokenised examples in one safetensors file, which several processes map into memory instead of holding a copy each.

save_sets(path, {"train": data.train_set})
load_sets(path)["train"]  # the same batches
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from redi_lab.data.batches import BatchDataset
from redi_lab.data.packing import Reference
from redi_lab.data.tokenization import TokenizedSequence

_MISMATCHED = ".mismatched"


def save_sets(path: Path, sets: Mapping[str, BatchDataset]) -> None:
    """Write examples, what the reference makes of them, and what is set beside them; 4 bytes a token."""
    beside = {f"{name}{_MISMATCHED}": one.mismatched for name, one in sets.items() if one.mismatched is not None}
    tensors: dict[str, Tensor] = {}
    options: dict[str, str] = {}
    for name, one in {**sets, **beside}.items():
        tensors |= {f"{name}/{column}": values for column, values in _columns(one).items()}
        kept = {key: getattr(one, key) for key in ("token_budget", "split_examples", "is_padded")}
        options[name] = json.dumps({"width": len(one.examples[0]) if one.examples else 1, "options": kept})
    save_file(tensors, path, options)


def load_sets(path: Path) -> dict[str, BatchDataset]:
    """What `save_sets` has written; tokens are read when they are needed."""
    with safe_open(path, "pt") as file:
        sets = {name: _read(file, name, **json.loads(about)) for name, about in file.metadata().items()}
    for name in [name for name in sets if name.endswith(_MISMATCHED)]:
        sets[name.removesuffix(_MISMATCHED)].mismatched = sets.pop(name)
    return sets


def _columns(dataset: BatchDataset) -> dict[str, Tensor]:
    sequences = [sequence for example in dataset.examples for sequence in example]
    weighted = [sequence.token_weights or () for sequence in sequences]
    about = [(s.id, s.prompt_length, s.is_chosen, s.weight, s.pass_rate) for s in sequences]
    ids = np.concatenate([np.empty(0, np.int32), *(np.asarray(s.input_ids, np.int32) for s in sequences)])
    columns = {
        "about": torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8),
        "ids": torch.from_numpy(ids),
        "sizes": torch.tensor([len(sequence.input_ids) for sequence in sequences], dtype=torch.int64),
        "token_weights": torch.tensor([weight for weights in weighted for weight in weights], dtype=torch.float64),
        "num_token_weights": torch.tensor(list(map(len, weighted)), dtype=torch.int64),
    }
    if dataset.reference is not None:
        scores = [one for example in dataset.reference for one in example]
        columns["reference"] = torch.tensor([one.logps for one in scores], dtype=torch.float64)
        if tokens := [one.token_logps for one in scores if one.token_logps is not None]:
            columns["reference_tokens"] = torch.cat(tokens)
    return columns


def _read(file: Any, name: str, width: int, options: dict[str, Any]) -> BatchDataset:
    names = file.keys()
    columns = {key.rpartition("/")[2]: file.get_tensor(key) for key in names if key.startswith(f"{name}/")}
    about = json.loads(bytes(columns["about"].tolist()))
    ids = columns["ids"].split(columns["sizes"].tolist())
    weights = columns["token_weights"].split(columns["num_token_weights"].tolist())
    sequences = [
        TokenizedSequence(id_, memoryview(tokens.numpy()), prompt, is_chosen, weight, rate, tuple(own.tolist()) or None)
        for (id_, prompt, is_chosen, weight, rate), tokens, own in zip(about, ids, weights, strict=True)
    ]
    dataset = BatchDataset([tuple(sequences[at : at + width]) for at in range(0, len(sequences), width)], **options)
    if "reference" in columns:
        tokens: list[Tensor | None] = [None] * len(sequences)
        if "reference_tokens" in columns:
            tokens = list(columns["reference_tokens"].split([sequence.completion_length for sequence in sequences]))
        scores = [Reference(*both) for both in zip(columns["reference"].tolist(), tokens, strict=True)]
        dataset.reference = [scores[at : at + width] for at in range(0, len(scores), width)]
    return dataset
