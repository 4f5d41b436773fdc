"""A tiny Hugging Face checkpoint folder, made on the spot, and a stand-in for vLLM."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

VOCABULARY_SIZE = 24
PAD, EOS, TURN_END = 21, 22, 23


def build_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Save a random two-layer Qwen2 whose generation settings would change every completion, were they applied."""
    words = {str(number): number for number in range(PAD)} | {"<pad>": PAD, "<eos>": EOS, "<end>": TURN_END}
    words_model = Tokenizer(models.WordLevel(words, unk_token="0"))
    words_model.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words_model, pad_token="<pad>", eos_token="<eos>", additional_special_tokens=["<end>"]
    )
    generator_state = torch.get_rng_state()
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCABULARY_SIZE,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.6,  # far from uniform, so that greedy decoding, padding and temperature all matter
        tie_word_embeddings=True,
        eos_token_id=EOS,
    )
    model = Qwen2ForCausalLM(config)
    torch.set_rng_state(generator_state)
    model.generation_config = GenerationConfig(
        do_sample=True, temperature=5.0, top_k=2, repetition_penalty=3.0, eos_token_id=[EOS, TURN_END], pad_token_id=PAD
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny checkpoint; tests must not change it."""
    torch.set_num_threads(1)
    return build_checkpoint(tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture
def mischief(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file by which `fake_vllm` is told what goes wrong."""
    path = tmp_path / "mischief"
    monkeypatch.setenv("MISCHIEF", str(path))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    return path


@pytest.fixture
def python(tmp_path: Path, mischief: Path) -> str:
    """A Python whose vLLM is `fake_vllm`."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("fake_vllm.py")}" "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IEXEC)
    return str(path)
