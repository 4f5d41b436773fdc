"""Tiny random models of several architectures, and sequences for them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from redi_lab.backbone.adapters import Adapters
from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.loading import load_backbone
from redi_lab.data.arithmetic import build_tokenizer
from redi_lab.data.packing import MicroBatch, make_batch
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.losses.logps import token_logps
from redi_lab.losses.sequences import sum_by_sequence

MakeBackbone = Callable[..., CausalLM]
MakeSequences = Callable[..., list[TokenizedSequence]]

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # far from uniform, so that a token in the wrong place shows
}


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    return build_tokenizer()


@pytest.fixture(scope="session")
def make_backbone(tokenizer: Any) -> MakeBackbone:
    """A new model of `model_type` with seeded weights.

    `config` holds further fields, or None for one that the architecture does not have; options go to `load_backbone`.
    """
    made: dict[str, CausalLM] = {}

    def make(
        model_type: str = "qwen2", *, seed: int = 0, config: dict[str, Any] | None = None, **options: Any
    ) -> CausalLM:
        key = str((model_type, seed, config, options))
        if key not in made:
            torch.manual_seed(seed)
            fields = SIZES | {"model_type": model_type} | (config or {})
            given = {name: value for name, value in fields.items() if value is not None}
            made[key] = load_backbone(path=None, tokenizer=tokenizer, config=given, **options)
        return copy.deepcopy(made[key])

    return make


@pytest.fixture(scope="session")
def make_sequences(tokenizer: Any) -> MakeSequences:
    """Random sequences of the given lengths, with prompts of about a third."""

    def make(lengths: Sequence[int], seed: int = 0) -> list[TokenizedSequence]:
        generator = torch.Generator().manual_seed(seed)
        return [
            TokenizedSequence(
                f"row {i}", torch.randint(len(tokenizer), (n,), generator=generator).tolist(), max(1, n // 3)
            )
            for i, n in enumerate(lengths)
        ]

    return make


@pytest.fixture
def folder(make_backbone: MakeBackbone, tmp_path: Path) -> Path:
    """A saved random Qwen2."""
    path = tmp_path / "student"
    make_backbone().save(path, end_of_turn_id=3)
    return path


def pack(sequences: Sequence[TokenizedSequence]) -> MicroBatch:
    """All sequences in one row, in order."""
    batch = make_batch([(s,) for s in sequences], token_budget=10_000, split_examples=True)
    (micro,) = batch.micro_batches
    return micro


def packed_logps(backbone: CausalLM, sequences: Sequence[TokenizedSequence]) -> Tensor:
    """log π(y|x) of each sequence the lab's way."""
    micro = pack(sequences)
    logps = backbone(micro, token_logps).logps
    return sum_by_sequence(logps, micro.sequence_index, len(sequences))


def gradients(model: torch.nn.Module, total: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    torch.autograd.backward(total)
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def trained_adapters(backbone: CausalLM) -> CausalLM:
    """Give the adapters a part in the output: a fresh B is zero."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    return backbone


LORA = Adapters(rank=4, alpha=8, dropout=0.0, targets="all-linear", quantization=None)
