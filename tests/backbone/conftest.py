"""Tiny random models of several architectures, and sequences for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from redi_lab.backbone.causal_lm import CausalLM, load_backbone
from redi_lab.data.arithmetic import build_tokenizer
from redi_lab.data.tokenization import TokenizedSequence

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
    torch.set_num_threads(1)
    return build_tokenizer()


@pytest.fixture
def make_backbone(tokenizer: Any) -> Callable[..., CausalLM]:
    """A new model of `model_type` with seeded weights.

    `config` holds further fields, or None for one that the architecture lacks; options go to `load_backbone`.
    """

    def make(
        model_type: str = "qwen2", *, seed: int = 0, config: dict[str, Any] | None = None, **options: Any
    ) -> CausalLM:
        torch.manual_seed(seed)
        fields = SIZES | {"model_type": model_type} | (config or {})
        given = {key: value for key, value in fields.items() if value is not None}
        return load_backbone(path=None, tokenizer=tokenizer, config=given, **options)

    return make


@pytest.fixture(scope="session")
def make_sequences(tokenizer: Any) -> Callable[..., list[TokenizedSequence]]:
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
