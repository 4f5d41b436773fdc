"""The wrapper of a causal LM: packed and padded rows are exact, saved folders load anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from redi_lab.backbone.attention import packed_arguments
from redi_lab.backbone.loading import load_backbone
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.errors import UserError
from tests.backbone.conftest import (
    MakeBackbone,
    MakeSequences,
    gradients,
    pack,
    packed_logps,
)

EVEN, UNEVEN = (9, 7, 8, 9), (200, 3, 2, 5)  # one attention call over a grid, and one per sequence
ARCHITECTURES = {
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "llama": ("llama", {"attention_bias": True}),
    "mistral": ("mistral", {"sliding_window": 256}),
    "gemma3": ("gemma3_text", {"head_dim": 8, "final_logit_softcapping": 3.0}),
    "cohere": ("cohere", {"logit_scale": 0.25}),
    "granite": ("granite", {"logits_scaling": 4.0, "attention_multiplier": 0.5, "residual_multiplier": 0.7}),
    "phi": ("phi", {"partial_rotary_factor": 0.5}),  # its head has a bias
    "gpt2": ("gpt2", {"num_key_value_heads": None, "intermediate_size": None}),  # learnt positions
    "mixtral": ("mixtral", {"num_local_experts": 3, "num_experts_per_tok": 2}),
}


def architecture(name: str) -> dict[str, Any]:
    model_type, fields = ARCHITECTURES[name]
    return {"model_type": model_type, "config": fields}


def plain_logps(model: Any, sequences: Sequence[TokenizedSequence]) -> Tensor:
    """The same by transformers alone: eager attention, own head, one sequence at a time."""
    before = model.config._attn_implementation
    model.set_attn_implementation("eager")
    sums = []
    for sequence in sequences:
        ids = torch.tensor([sequence.input_ids])
        logps = model(input_ids=ids).logits[0, :-1].float().log_softmax(-1)
        sums.append(logps.gather(1, ids[0, 1:, None])[sequence.prompt_length - 1 :].sum())
    model.set_attn_implementation(before)
    return torch.stack(sums)


@pytest.mark.parametrize("lengths", [EVEN, UNEVEN], ids=["grid", "split"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_packed_is_unpacked(
    name: str, lengths: tuple[int, ...], make_backbone: MakeBackbone, make_sequences: MakeSequences
) -> None:
    """log-probs within 1e-5 per token, gradients of every parameter within 1e-4 of their norm."""
    backbone, sequences = make_backbone(**architecture(name)).eval(), make_sequences(lengths)
    ours, theirs = packed_logps(backbone, sequences), plain_logps(backbone.model, sequences)
    tokens = torch.tensor([s.completion_length for s in sequences])
    torch.testing.assert_close(ours / tokens, theirs / tokens, rtol=0, atol=1e-5)

    weights = torch.linspace(-0.8, 1.0, len(sequences))  # chosen up, rejected down
    mine = gradients(backbone.model, (ours * weights).sum())
    expected = gradients(backbone.model, (theirs * weights).sum())
    assert mine.keys() == expected.keys()
    scale = max(gradient.norm() for gradient in expected.values())
    for key, gradient in expected.items():
        # A bias of keys has no gradient but rounding: the floor is relative to the largest one.
        assert (mine[key] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6 * scale, key


PADDED = {
    "qwen2": ("qwen2", {}),
    "llama": ("llama", {}),
    "gemma2": ("gemma2", {"head_dim": 8, "attn_logit_softcapping": 1.0, "final_logit_softcapping": 3.0}),
    "mistral": ("mistral", {"sliding_window": 6}),  # shorter than the sequences
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"], "num_key_value_heads": 2}),
}


@pytest.mark.parametrize("name", PADDED)
def test_padded_is_unpadded(name: str, make_backbone: MakeBackbone, make_sequences: MakeSequences) -> None:
    """Also for models that packed rows do not fit."""
    model_type, config = PADDED[name]
    backbone = make_backbone(model_type, config=config, attention="padded").eval()
    sequences = make_sequences((30, 3, 12, 5))
    ours, theirs = packed_logps(backbone, sequences), plain_logps(backbone.model, sequences)
    tokens = torch.tensor([s.completion_length for s in sequences])
    torch.testing.assert_close(ours / tokens, theirs / tokens, rtol=0, atol=1e-5)
    mine, expected = gradients(backbone.model, ours.sum()), gradients(backbone.model, theirs.sum())
    scale = max(gradient.norm() for gradient in expected.values())
    for key, gradient in expected.items():
        assert (mine[key] - gradient).norm() <= 1e-4 * gradient.norm() + 1e-6 * scale, key
    if name not in ("qwen2", "llama"):
        with pytest.raises(UserError, match=r"set model\.attention=padded"):
            make_backbone(model_type, config=config)


def test_attention_that_generates_is_that_which_trains(make_backbone: MakeBackbone) -> None:
    """SDPA has no soft-capping of scores, and transformers uses it for Gemma 2 without a word."""
    capped = make_backbone("gemma2", config={"head_dim": 8, "attn_logit_softcapping": 1.0}, attention="padded")
    with capped.for_generation() as model:
        assert model.config._attn_implementation == "eager"
    with make_backbone().for_generation() as model:
        assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("model_type", "config", "attention", "window"),
    [
        ("mistral", {"sliding_window": 30}, "packed_sdpa", 30),
        ("mistral", {"sliding_window": 30}, "padded", None),
        ("qwen2", {"sliding_window": 30, "use_sliding_window": False}, "packed_sdpa", None),
    ],
)
def test_sliding_windows_are_known_before_training(
    model_type: str, config: dict[str, Any], attention: str, window: int | None, make_backbone: MakeBackbone
) -> None:
    assert make_backbone(model_type, config=config, attention=attention).unsupported_window == window


def test_hidden_states_have_the_dtype_that_autocast_computes_in(
    make_backbone: MakeBackbone, make_sequences: MakeSequences
) -> None:
    """Else the head's products would run in fp32, which costs four times as much."""
    backbone, micro = make_backbone(), pack(make_sequences(EVEN))
    assert backbone.hidden_states(micro).dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert backbone.hidden_states(micro).dtype == torch.bfloat16


@pytest.mark.parametrize("lengths", [EVEN, UNEVEN], ids=["grid", "split"])
@pytest.mark.parametrize("name", ["qwen2", "llama", "mistral", "gemma3"])
@torch.no_grad()
def test_no_sequence_sees_another(
    name: str, lengths: tuple[int, ...], make_backbone: MakeBackbone, make_sequences: MakeSequences
) -> None:
    """Bit for bit: whichever sequence is replaced, the hidden states of all others stay."""
    backbone = make_backbone(**architecture(name)).eval()
    sequences, others = make_sequences(lengths), make_sequences(lengths, seed=1)
    before = torch.split(backbone.hidden_states(pack(sequences)), list(lengths))
    for changed in range(len(lengths)):
        mixed = [*sequences[:changed], others[changed], *sequences[changed + 1 :]]
        after = torch.split(backbone.hidden_states(pack(mixed)), list(lengths))
        for index, (a, b) in enumerate(zip(before, after, strict=True)):
            assert torch.equal(a, b) == (index != changed)


def test_the_traps_of_transformers(make_backbone: MakeBackbone, make_sequences: MakeSequences) -> None:
    """What the wrapper avoids is real: a plain packed forward leaks in both ways, and it uses neither."""
    backbone, sequences = make_backbone().eval(), make_sequences(EVEN)
    micro = pack(sequences)
    asked: list[dict[str, Any]] = []
    hook = backbone.model.model.register_forward_pre_hook(
        lambda _, __, given: asked.append(dict(given)), with_kwargs=True
    )
    with torch.no_grad():
        exact = backbone.hidden_states(micro)
        hook.remove()
        backbone.model.set_attn_implementation("sdpa")
        body, ids, positions = backbone.model.model, micro.input_ids, micro.position_ids
        one_document = body(input_ids=ids, use_cache=False).last_hidden_state[0]
        masked = body(input_ids=ids, position_ids=positions, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
        cached = body(input_ids=ids, position_ids=positions, use_cache=True).last_hidden_state[0]
    (given,) = asked
    assert given["use_cache"] is False
    assert given.get("attention_mask") is None
    assert given["position_ids"].tolist() == micro.position_ids.tolist()
    first = EVEN[0]
    for leaking in (one_document, masked, cached):
        torch.testing.assert_close(leaking[:first], exact[:first], rtol=0, atol=1e-5)
        assert (leaking[first:] - exact[first:]).abs().max() > 0.1


def test_a_mask_cannot_reach_packed_attention(make_backbone: MakeBackbone, make_sequences: MakeSequences) -> None:
    """transformers builds no mask for this attention, whatever is passed."""
    backbone, micro = make_backbone().eval(), pack(make_sequences(EVEN))
    with torch.no_grad():
        masked = backbone.model.model(
            input_ids=micro.input_ids,
            position_ids=micro.position_ids,
            attention_mask=torch.ones_like(micro.input_ids),
            use_cache=False,
            **packed_arguments(micro),
        ).last_hidden_state[0]
        assert torch.equal(masked, backbone.hidden_states(micro))


@torch.no_grad()
def test_a_saved_folder_loads_anywhere(make_backbone: MakeBackbone, tokenizer: Any, tmp_path: Path) -> None:
    """In transformers with equal logits, the turn's end as EOS, and the tokenizer beside it."""
    backbone = make_backbone().eval()
    backbone.save(tmp_path, end_of_turn_id=3)
    assert (tmp_path / "model.safetensors").is_file()
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert model.config._attn_implementation == "sdpa"  # a stranger has no packed attention
    ids = torch.arange(20)[None]
    backbone.model.set_attn_implementation("sdpa")
    assert torch.equal(model(input_ids=ids).logits, backbone.model(input_ids=ids).logits)
    assert model.generation_config.eos_token_id == 3
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id
    assert model.generate(ids, max_new_tokens=2, do_sample=False).shape[1] <= 22
    assert AutoTokenizer.from_pretrained(tmp_path).get_vocab() == tokenizer.get_vocab()


def test_saving_and_loading_changes_nothing(
    folder: Path, make_backbone: MakeBackbone, make_sequences: MakeSequences
) -> None:
    loaded, sequences = load_backbone(path=str(folder)), make_sequences(EVEN)
    assert torch.equal(packed_logps(loaded, sequences), packed_logps(make_backbone(), sequences))
    assert load_backbone(path=str(folder), dtype="bfloat16").head.weight.dtype == torch.bfloat16
