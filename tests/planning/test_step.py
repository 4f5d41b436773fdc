"""What a step holds and computes: by hand on a tiny shape, and as it was measured on a GPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.optim import AdamW
from transformers import AutoModelForCausalLM, Qwen2Config

from redi_lab.backbone.adapters import Adapters
from redi_lab.planning.footprint import Layers, Sizes, measure_layers, new_model
from redi_lab.planning.step import Work, forward_work, gathered_memory, step_memory
from tests.modules.tiny_runs import make_backbone

LORA: dict[str, Any] = {"rank": 4, "alpha": 8, "dropout": 0.0, "targets": ["q_proj", "down_proj"], "quantization": None}
SIZES = Sizes(
    parameters=100,
    trained=100,
    weight_bytes=400,
    trained_bytes=400,
    products=60,
    trained_products=60,
    head=(10, 3),
    is_head_trained=True,
    is_tied=True,
    attention_width=6,
    cache_width=4,
)
SITUATION: dict[str, Any] = {
    "is_gpu": True,
    "is_mixed": True,
    "targets": 8,
    "chunk": 4,
    "has_many_rows": True,
    "keeps_update": False,
    "splits_gradient": False,
}


def qwen(**changes: Any) -> Qwen2Config:
    """Qwen2.5-Math-1.5B, as benchmarks/gpu has it."""
    sizes = {"vocab_size": 151_936, "hidden_size": 1536, "num_hidden_layers": 28, "num_attention_heads": 12}
    more = {"num_key_value_heads": 2, "intermediate_size": 8960, "tie_word_embeddings": True, "eos_token_id": 0}
    return Qwen2Config(**(sizes | more | changes))


def test_the_head_s_pass_by_hand() -> None:
    """Head: chunk 4·10·2 = 80, cast 10·3·2 = 60, gradient 10·3·4 = 120, states and gradient 2·8·3·2 = 96; kept: 50."""
    found = step_memory(SIZES, Layers(kept=50, peak=60), **SITUATION)
    assert found == {"gradients": 400, "activations": 50, "head": 80 + 60 + 120 + 96}
    untrained = SIZES._replace(is_head_trained=False)
    assert step_memory(untrained, Layers(50, 60), **SITUATION)["head"] == 80 + 60 + 96


def test_the_backward_pass_by_hand() -> None:
    """Its scratch is gone on a GPU and kept on a CPU, where a chunk's gradient is rounded in 10·3·2 = 60 more bytes."""
    layers = Layers(kept=50, peak=5000)
    assert step_memory(SIZES, layers, **SITUATION)["head"] == 120 + 96
    assert step_memory(SIZES, layers, **SITUATION | {"is_gpu": False})["head"] == 120 + 96 + 80 + 60 + 60
    untied = SIZES._replace(is_tied=False)
    assert step_memory(untied, layers, **SITUATION)["head"] == 96  # its gradient is handed over at once


def test_a_single_row_has_no_gradients_beside_its_activations() -> None:
    layers = Layers(kept=50, peak=5000)
    assert step_memory(SIZES, layers, **SITUATION | {"has_many_rows": False})["gradients"] == 0


def test_the_end_of_a_step_by_hand() -> None:
    """Short rows: both gradients of the tied weights, 240, meet; with the update's norm, weights are kept: 400 more."""
    layers = Layers(kept=1, peak=2)
    short = SITUATION | {"targets": 1}
    assert step_memory(SIZES, layers, **short) == {"gradients": 400, "activations": 0, "head": 240}
    assert step_memory(SIZES, layers, **short | {"keeps_update": True})["gradients"] == 800
    assert step_memory(SIZES, layers, **short | {"splits_gradient": True}) == {
        "gradients": 1200,
        "activations": 0,
        "head": 240,
    }


def test_shared_out_gradients_by_hand() -> None:
    """A quarter of 400 is left; the head's, 120, is whole until the end of the pass, and copied where it is sent."""
    layers, four = Layers(kept=50, peak=60), SITUATION | {"shards": 4}
    assert step_memory(SIZES, layers, **four) == {"gradients": 100, "activations": 50, "head": 80 + 60 + 120 + 96}
    untied = SIZES._replace(is_tied=False)
    assert step_memory(untied, Layers(50, 5000), **four)["head"] == 120 + 96
    for sizes, whole in ((SIZES, 2 * 120), (untied, 2 * (120 + 120))):
        found = step_memory(sizes, Layers(kept=1, peak=2), **four | {"targets": 1})
        assert found == {"gradients": 100, "activations": 0, "head": whole}


def test_what_is_gathered_by_hand() -> None:
    """The head, 30 numbers, and of each of two layers 35 and their gradients; all layers where there are two."""
    assert gathered_memory(SIZES, layers=2, bytes_each=4) == 4 * 30 + 2 * 4 * (35 + 35)
    untied = SIZES._replace(is_tied=False)  # 30 of the embeddings more, so 20 in a layer
    assert gathered_memory(untied, layers=2, bytes_each=4) == 4 * 60 + 2 * 4 * (20 + 20)


@pytest.mark.parametrize(
    ("checkpointing", "tokens", "rows", "measured"),
    [("full", 19_800, 2, 32.26), ("selective", 19_800, 2, 58.65), ("full", 39_600, 1, 32.58)],
)
def test_what_one_h100_measured(checkpointing: str, tokens: int, rows: int, measured: float) -> None:
    """benchmarks/gpu/h100.json, GB: REDI at 2 × 19,800 tokens."""
    config = qwen()
    sizes = Sizes.of(new_model(config, "float32", None))
    layers = measure_layers(
        config, dtype="float32", lora=None, precision="bf16-mixed", checkpointing=checkpointing, tokens=tokens
    )
    situation = SITUATION | {"targets": round(0.95 * tokens), "chunk": 4096, "has_many_rows": rows > 1}
    moment = step_memory(sizes, layers, **situation)
    total = sizes.weight_bytes + 2 * sizes.trained_bytes + sum(moment.values())
    assert total / 1e9 == pytest.approx(measured, rel=0.05)


def test_sizes_are_those_of_the_model() -> None:
    backbone = make_backbone()
    config = backbone.plain.config
    assert Sizes.of(new_model(config, "float32", None)) == Sizes.of(backbone.model)
    adapted = Adapters(**LORA).add_to(backbone.model)
    assert Sizes.of(new_model(config, "float32", LORA)) == Sizes.of(adapted)
    assert Sizes.of(adapted).trained == sum(p.numel() for p in adapted.parameters() if p.requires_grad)


def test_checkpointing_keeps_the_input_of_each_layer() -> None:
    """1,536 fp32 numbers a token for each of the 26 layers more; nothing else of them grows with the row."""

    def kept(layers: int, mode: str) -> int:
        config = qwen(num_hidden_layers=layers, vocab_size=100)
        return measure_layers(
            config, dtype="float32", lora=None, precision="bf16-mixed", checkpointing=mode, tokens=64
        ).kept

    assert kept(28, "full") - kept(2, "full") == 26 * 64 * 1536 * 4
    assert kept(28, "full") < kept(28, "none")


def test_layers_are_measured_as_torch_saves_them() -> None:
    """Against tensors with storage: what autograd saves of a layer in a real forward pass in fp32."""
    tokens, weights = 200, set[int]()
    seen: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    def small(layers: int) -> Qwen2Config:
        return qwen(num_hidden_layers=layers, vocab_size=100, hidden_size=96, intermediate_size=200)

    def saved(layers: int) -> int:
        seen.clear()
        model = AutoModelForCausalLM.from_config(small(layers), attn_implementation="planned_sdpa")
        weights.update(p.untyped_storage().data_ptr() for p in model.parameters())
        states = torch.randn(1, tokens, 96, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = model.base_model(inputs_embeds=states, use_cache=False)
        assert output.last_hidden_state.requires_grad  # its graph keeps what was saved until here
        return sum(seen.values())

    options: dict[str, Any] = {"dtype": "float32", "lora": None, "precision": "32-true", "checkpointing": "none"}
    one, two = (measure_layers(small(layers), tokens=tokens, **options).kept for layers in (1, 2))
    assert two - one == pytest.approx(saved(2) - saved(1), rel=0.02)


def test_planning_draws_no_random_numbers() -> None:
    """Else a run would not be what it is without a plan."""
    before = torch.get_rng_state()
    config = qwen(num_hidden_layers=3, vocab_size=101)
    options: dict[str, Any] = {"dtype": "float32", "precision": "bf16-mixed", "checkpointing": "full"}
    measure_layers(config, lora=LORA | {"dropout": 0.1}, tokens=65, **options)
    assert torch.equal(torch.get_rng_state(), before)


def test_moments_are_what_adamw_has() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = AdamW([weight])
    weight.grad = torch.ones(3)
    optimizer.step()
    assert sum(value.nbytes for value in optimizer.state[weight].values() if value.dim()) == 2 * weight.nbytes


def test_operations_by_hand() -> None:
    """Sequences of 3 and 5 tokens: 2·8·7 in layers, 2·(9 + 25)·4 in attention, 2·(2 + 4)·6 in the head."""
    assert forward_work([(3, 2), (5, 4)], products=7, attention_width=4, head=6) == Work(112.0, 272.0, 72.0)


@pytest.mark.parametrize(
    ("share", "is_head_trained", "mode", "expected"),
    [
        (1.0, True, "none", 3 * 111),
        (1.0, True, "selective", 3 * 111),
        (1.0, True, "full", 4 * 110 + 3),
        (0.0, False, "none", 2 * 100 + 3 * 10 + 2),
    ],
)
def test_a_step_by_hand(share: float, is_head_trained: bool, mode: str, expected: float) -> None:
    work = Work(100.0, 10.0, 1.0)
    assert work.of_a_step(trained_share=share, is_head_trained=is_head_trained, checkpointing=mode) == expected
