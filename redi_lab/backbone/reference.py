"""log π_ref of every training sequence, computed once before training and kept by content.

A frozen reference that scored the whole data set beforehand costs no memory and no time during training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.data.datamodule import BatchDataset
from redi_lab.data.tokenization import digest_sequences
from redi_lab.files import replacing


def reference_logps(
    reference: CausalLM,
    dataset: BatchDataset,
    *,
    cache_dir: Path,
    precision: str = "32-true",
    on_progress: Callable[[int, int], None] | None = None,
) -> Sequence[Sequence[float]]:
    """Log π_ref(y|x) in nats of each sequence of each example, from the cache where it holds them.

    Args:
        reference: the frozen model, on the device to compute on.
        dataset: the examples.
        cache_dir: where results are kept, keyed by weights, architecture, precision and tokens.
        precision: name of the precision that the caller computes in (the policy's, so that both round alike).
        on_progress: called with (examples done, examples).
    """
    examples = dataset.examples
    content = digest_sequences(sequence for example in examples for sequence in example)
    key = hashlib.sha256(f"{_model_digest(reference)}/{precision}/{content}".encode()).hexdigest()
    file = cache_dir / f"{key}.safetensors"
    if file.is_file():
        return load_file(file)["logps"].tolist()  # type: ignore[no-any-return]
    values: list[list[float]] = []
    for start in range(0, len(examples), 64):
        indices = list(range(start, min(start + 64, len(examples))))
        values.extend(reference.sequence_logps(dataset[indices]).view(len(indices), -1).tolist())
        if on_progress is not None:
            on_progress(len(values), len(examples))
    cache_dir.mkdir(parents=True, exist_ok=True)
    with replacing(file) as partial:  # two runs may compute the same file: the last one wins, both are whole
        save_file({"logps": torch.tensor(values, dtype=torch.float32)}, partial)
    return values


def _model_digest(model: CausalLM) -> str:
    """SHA-256 of weights and configuration: the base of the rotary embedding, for example, is not among the weights."""
    config = {
        k: v for k, v in model.model.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")
    }
    state = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        state.update(f"{name}/{tensor.dtype}/{tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
