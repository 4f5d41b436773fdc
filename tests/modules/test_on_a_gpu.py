"""Training on a GPU: the same numbers as on a CPU, and nothing that makes the CPU wait for it within a step."""

from __future__ import annotations

import dataclasses
import random
import threading
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AutoModelForCausalLM, Qwen2Config

from redi_lab.backbone import attention
from redi_lab.backbone.attention import PACKED_SDPA
from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.loading import set_checkpointing
from redi_lab.data.packing import Batch, Reference, make_batch
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.errors import UserError
from redi_lab.losses import sequences, vocabulary
from redi_lab.modules.base import CausalLMModule
from redi_lab.run.build import make_trainer
from tests.modules import tiny_runs
from tests.modules.tiny_runs import OBJECTIVES, Run, fit, make_data, make_module, make_strategy, relative_error

LENGTHS = (40, 9, 25, 33, 12, 30)
VOCABULARY = 101


def make_backbone(num_layers: int = 2) -> CausalLM:
    """Of a size that every kernel takes, with weights far from uniform."""
    config = Qwen2Config(
        vocab_size=VOCABULARY,
        hidden_size=64,
        num_hidden_layers=num_layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=96,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=PACKED_SDPA)
    return CausalLM(model, tokenizer=None, head_chunk_tokens=16)


def make_step(objective: str, backbone: CausalLM) -> tuple[CausalLMModule, Batch]:
    """A module that can take gradients outside a trainer, and two micro-batches for it."""
    module = make_module(objective, backbone)
    module.manual_backward = lambda loss: loss.backward()
    module._trainer = SimpleNamespace(world_size=1, strategy=SimpleNamespace(model=None))
    draw = random.Random(1)
    sequences = [
        TokenizedSequence(str(i), [draw.randrange(VOCABULARY) for _ in range(n)], 3, i % 2 == 0)
        for i, n in enumerate(LENGTHS)
    ]
    width = 2 if module.task == "pairs" else 1
    examples = [tuple(sequences[at : at + width]) for at in range(0, len(sequences), width)]
    reference = [Reference(-2.0 * n) for n in LENGTHS] if module.needs_reference else None
    batch = make_batch(examples, token_budget=100, split_examples=module.is_linear, reference=reference)
    assert len(batch.micro_batches) > 1
    return module, batch


def move(batch: Batch, to: Any) -> Batch:
    """A copy whose tensors went through `to`."""

    def moved(item: Any) -> Any:
        values = {k: to(v) if isinstance(v, Tensor) else v for k, v in vars(item).items()}
        return dataclasses.replace(item, **values)

    found: Batch = dataclasses.replace(moved(batch), micro_batches=[moved(micro) for micro in batch.micro_batches])
    return found


@pytest.mark.parametrize("objective", ["redi", "dpo"])  # one of each kernel
def test_no_micro_batch_asks_for_a_value(objective: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors without values have none to give: reading one, or selecting by a mask, raises."""
    monkeypatch.setattr(sequences, "is_any", lambda *_: False)  # as on a GPU
    monkeypatch.setattr(vocabulary, "_kept", threading.local())  # must not keep memory without values
    _, batch = make_step(objective, make_backbone(num_layers=1))
    with FakeTensorMode() as fake:
        module, _ = make_step(objective, make_backbone(num_layers=1))
        found = module._accumulate_gradients(move(batch, fake.from_tensor))
        with pytest.raises(RuntimeError, match="_local_scalar_dense"):
            found.logps.sum().item()


def test_a_gpu_is_not_asked_whether_a_value_is_wrong() -> None:
    assert sequences.is_any(torch.tensor([False, True]), "")
    assert not sequences.is_any(torch.empty(2, dtype=torch.bool, device="meta"), "")


def test_deterministic_warn_leaves_fresh_memory_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Filling it with NaN would write each chunk of logits once more."""
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    place = {"accelerator": "cpu", "devices": 1, "num_nodes": 1, "strategy": "auto", "fsdp_offload": False}
    config = OmegaConf.create({"trainer": {"deterministic": "warn"} | place})
    try:
        make_trainer(config, [], False)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert not torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    finally:
        torch.use_deterministic_algorithms(False)


def gradients(module: CausalLMModule) -> Tensor:
    return torch.cat([p.grad.flatten().double().cpu() for p in module.parameters() if p.grad is not None])


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.bfloat16, 0.15)])
@pytest.mark.parametrize("checkpointing", ["none", "full", "selective"])
@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_gradients_are_those_of_a_cpu(objective: str, checkpointing: str, dtype: torch.dtype, tolerance: float) -> None:
    module, batch = make_step(objective, make_backbone())
    wanted = module._accumulate_gradients(batch)
    expected = gradients(module)
    module.zero_grad()
    module.cuda()
    set_checkpointing(module.backbone.model, checkpointing)
    with torch.autocast("cuda", torch.bfloat16, enabled=dtype == torch.bfloat16):
        found = module._accumulate_gradients(move(batch, Tensor.cuda))
    assert (found.logps.cpu() - wanted.logps).norm() <= tolerance * wanted.logps.norm()
    assert (gradients(module) - expected).norm() <= tolerance * expected.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("objective", ["sft", "redi", "dpo", "simpo"])
def test_no_micro_batch_waits_for_the_gpu(objective: str) -> None:
    module, batch = make_step(objective, make_backbone().cuda())
    batch = move(batch, Tensor.cuda)
    with torch.autocast("cuda", torch.bfloat16):
        module._accumulate_gradients(batch)  # what is compiled or made once may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            module._accumulate_gradients(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_training_checks_the_kernels_of_the_gpu_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A kernel that lets sequences see each other ends training before the first step."""

    def leaking(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, *rest: Any) -> Tensor:
        whole = torch.tensor([0, query.shape[2]], dtype=torch.int32, device=ends.device)
        return flash(query, key, value, whole, query.shape[2], None)

    flash = attention._flash
    monkeypatch.setattr(attention, "_flash", leaking)
    module, _ = make_step("redi", make_backbone())
    module._make_optimizer = partial(torch.optim.SGD, lr=0.1)
    trainer = pl.Trainer(
        accelerator="gpu",
        devices=1,
        max_steps=1,
        precision="bf16-mixed",
        logger=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path,
    )
    with pytest.raises(UserError, match="cannot be packed exactly"):
        trainer.fit(module, torch.utils.data.DataLoader([0], batch_size=None))  # type: ignore[arg-type]


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "fsdp2-offload"])
def test_a_rank_over_nccl_does_what_a_cpu_does(strategy: str, tmp_path: Path) -> None:
    def run(**trainer: Any) -> Run:
        module = make_module("redi", tiny_runs.make_backbone())
        return fit(module, make_data("redi", budget=0), max_steps=3, **trainer)

    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl", init_method=store, rank=0, world_size=1)
    try:
        found, expected = run(accelerator="gpu", strategy=make_strategy(strategy)), run()
    finally:
        torch.distributed.destroy_process_group()
    assert relative_error(found.tap.parameters[-1].cpu(), expected.tap.parameters[-1]) < 1e-3
