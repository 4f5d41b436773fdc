"""log π_ref of every training sequence or token, computed once before training and kept by content.

A frozen reference that scored the whole data set beforehand costs no memory and no time during training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.data.batches import BatchDataset
from redi_lab.data.examples import digest_sequences
from redi_lab.data.packing import Batch, Reference
from redi_lab.files import replacing
from redi_lab.losses.sequences import sum_by_sequence

_AT_ONCE = 64  # examples


def score_reference(
    reference: CausalLM,
    dataset: BatchDataset,
    *,
    keeps_tokens: bool,
    cache_dir: Path,
    precision: str = "32-true",
    on_progress: Callable[[int, int], None] | None = None,
) -> Sequence[Sequence[Reference]]:
    """What the reference makes of each sequence of each example, from the cache where it holds them.

    Args:
        reference: the frozen model, on the device to compute on.
        dataset: the examples.
        keeps_tokens: whether the log-probs of single tokens are needed (4 bytes each, in memory as on disk).
        cache_dir: where results are kept, keyed by weights, architecture, precision and tokens.
        precision: name of the precision that the caller computes in (the policy's, so that both round alike).
        on_progress: called with (examples done, examples).
    """
    examples = dataset.examples
    content = digest_sequences(sequence for example in examples for sequence in example)
    kind = "/tokens" if keeps_tokens else ""
    key = hashlib.sha256(f"{_model_digest(reference)}/{precision}/{content}{kind}".encode()).hexdigest()
    file = cache_dir / f"{key}.safetensors"
    if not file.is_file():
        scored: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(examples), _AT_ONCE):
            indices = list(range(start, min(start + _AT_ONCE, len(examples))))
            with reference.without_adapters():
                scored.append(_score(reference, dataset[indices]))
            if on_progress is not None:
                on_progress(indices[-1] + 1, len(examples))
        cache_dir.mkdir(parents=True, exist_ok=True)
        logps, tokens = (torch.cat(parts) for parts in zip(*scored, strict=True))
        with replacing(file) as partial:  # two runs may compute the same file: the last one wins, both are whole
            save_file({"logps": logps, **({"tokens": tokens} if keeps_tokens else {})}, partial)
    found, lengths = load_file(file), [s.completion_length for example in examples for s in example]
    of_tokens = found["tokens"].split(lengths) if keeps_tokens else [None] * len(lengths)
    scores = iter([Reference(*both) for both in zip(found["logps"].tolist(), of_tokens, strict=True)])
    return [[next(scores) for _ in example] for example in examples]


def _score(reference: CausalLM, batch: Batch) -> tuple[Tensor, Tensor]:
    """(S,) log-probs of a batch's sequences, and (N,) of their tokens, sequence by sequence."""
    owners, tokens, logps = [], [], torch.zeros_like(batch.lengths, device=reference.device)
    for micro, values in reference.token_logps(batch):
        owners.append(micro.sequence_index)
        tokens.append(values)
        weighted = values if micro.token_weights is None else values * micro.token_weights
        logps += sum_by_sequence(weighted, micro.sequence_index, len(logps))
    order = torch.argsort(torch.cat(owners), stable=True)  # packing moves sequences, never tokens within one
    return logps.cpu(), torch.cat(tokens)[order].cpu()


def _model_digest(model: CausalLM) -> str:
    """SHA-256 of weights and configuration: the base of the rotary embedding, for example, is not among the weights.

    It is the same with adapters and without.
    """
    config = {
        k: v for k, v in model.plain.config.to_dict().items() if k not in ("_name_or_path", "transformers_version")
    }
    state = hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode())
    weights = model.plain.state_dict(prefix="model.").items()
    own = {name.replace(".base_layer.", "."): tensor for name, tensor in weights if ".lora_" not in name}
    for name, tensor in sorted(own.items()):
        state.update(f"{name}/{tensor.dtype}/{tuple(tensor.shape)}".encode())
        state.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return state.hexdigest()
