"""Adapters: what they adapt, what they leave alone, and what is saved of them; also on 4-bit weights."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.loading import load_backbone
from redi_lab.backbone.reference import score_reference
from redi_lab.data.batches import BatchDataset
from redi_lab.errors import UserError
from redi_lab.losses.logps import token_logps
from tests.backbone.conftest import (
    LORA,
    MakeBackbone,
    MakeSequences,
    gradients,
    pack,
    packed_logps,
    trained_adapters,
)
from tests.backbone.test_causal_lm import EVEN, plain_logps

IN_4_BITS = replace(LORA, quantization="nf4")


@pytest.fixture
def quantised(folder: Path) -> CausalLM:
    """Trained adapters on the 4-bit weights of `folder`."""
    pytest.importorskip("bitsandbytes", reason="pip install 'redi-lab[qlora]'")
    return trained_adapters(load_backbone(path=str(folder), adapters=IN_4_BITS))


def test_only_adapters_train(make_backbone: MakeBackbone, make_sequences: MakeSequences) -> None:
    backbone, sequences = trained_adapters(make_backbone(adapters=LORA)), make_sequences(EVEN)
    found = gradients(backbone, packed_logps(backbone, sequences).sum())
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in backbone.named_parameters() if "lora_" in name}
    assert found.keys() == trained
    assert all(gradient.any() for gradient in found.values())
    reference = plain_logps(backbone.model.get_base_model(), sequences)
    torch.testing.assert_close(packed_logps(backbone, sequences), reference, rtol=0, atol=1e-3)


@torch.no_grad()
def test_adapters_are_merged_into_the_saved_copy_alone(
    make_backbone: MakeBackbone, make_sequences: MakeSequences, tmp_path: Path
) -> None:
    backbone, sequences = trained_adapters(make_backbone(adapters=LORA)), make_sequences(EVEN)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    adapted = packed_logps(backbone, sequences)
    backbone.save(tmp_path, end_of_turn_id=3)
    merged = load_backbone(path=str(tmp_path))
    torch.testing.assert_close(packed_logps(merged, sequences), adapted, rtol=1e-5, atol=1e-4)
    assert (adapted - packed_logps(make_backbone(), sequences)).abs().max() > 1  # the adapters do something
    assert not list(tmp_path.glob("adapter_*"))  # else transformers would add them once more
    assert merged.state_dict().keys() == make_backbone().state_dict().keys()
    assert merged.model.generation_config.eos_token_id == 3
    # Training goes on with what it had.
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert torch.equal(packed_logps(backbone, sequences), adapted)


@pytest.mark.parametrize("targets", [["nowhere"], ["q_proj", "nowhere"], ["lm_head"], ["proj"]])
def test_a_target_that_is_not_there_is_refused_beside_those_that_are(
    targets: Sequence[str], make_backbone: MakeBackbone
) -> None:
    """The head among them: the log-prob kernel would pass over its adapters."""
    names = "down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"
    with pytest.raises(UserError, match=rf"^model\.lora\.targets={targets[-1]}: no such linear layer; choose {names}"):
        make_backbone(adapters=replace(LORA, targets=targets))


def test_named_layers_alone_are_adapted(make_backbone: MakeBackbone) -> None:
    backbone = make_backbone(adapters=replace(LORA, targets=["v_proj", "layers.1.mlp.up_proj"]))
    trained = {
        name.partition(".layers.")[2].partition(".lora_")[0]
        for name, p in backbone.named_parameters()
        if p.requires_grad
    }
    assert trained == {"0.self_attn.v_proj", "1.self_attn.v_proj", "1.mlp.up_proj"}


def scored(reference: CausalLM, pairs: Any, cache_dir: Path) -> list[list[float]]:
    dataset = BatchDataset(pairs, 64, split_examples=True)
    rows = score_reference(reference, dataset, keeps_tokens=False, cache_dir=cache_dir)
    return [[scores.logps for scores in row] for row in rows]


def test_the_reference_is_the_policy_with_its_adapters_off_or_the_cached_model(
    folder: Path, make_sequences: MakeSequences, tmp_path: Path
) -> None:
    """However far the adapters were trained; and whoever filled the cache."""
    sequences = make_sequences(EVEN)
    pairs = list(zip(sequences[::2], sequences[1::2], strict=True))
    cached = scored(load_backbone(path=str(folder)).eval(), pairs, tmp_path / "cache")
    policy = trained_adapters(load_backbone(path=str(folder), adapters=LORA)).eval()
    before = {name: p.requires_grad for name, p in policy.named_parameters()}
    assert scored(policy, pairs, tmp_path / "other") == cached
    assert scored(policy, pairs, tmp_path / "cache") == cached
    assert [len(list((tmp_path / name).iterdir())) for name in ("cache", "other")] == [1, 1]
    with policy.without_adapters(), torch.no_grad():
        off = packed_logps(policy, sequences)
    assert off.tolist() == pytest.approx([value for row in cached for value in row], rel=1e-6)
    assert (packed_logps(policy, sequences) - off).abs().max() > 1
    assert {name: p.requires_grad for name, p in policy.named_parameters()} == before


def test_adapters_alone_are_what_peft_loads_onto_the_base(
    folder: Path, make_sequences: MakeSequences, tmp_path: Path
) -> None:
    from peft import PeftModel

    policy, sequences = trained_adapters(load_backbone(path=str(folder), adapters=LORA)).eval(), make_sequences(EVEN)
    policy.save(tmp_path / "saved", end_of_turn_id=3)
    settings = json.loads((tmp_path / "saved" / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(folder)
    assert settings["target_modules"] == sorted(settings["target_modules"]), "the file differs between processes"
    base = load_backbone(path=str(folder))
    again = CausalLM(PeftModel.from_pretrained(base.model, tmp_path / "saved" / "adapter"), base.tokenizer).eval()
    assert torch.equal(packed_logps(again, sequences), packed_logps(policy, sequences))


def test_4_bit_weights_are_frozen_and_near_those_they_were_made_from(
    quantised: CausalLM, folder: Path, make_sequences: MakeSequences
) -> None:
    sequences = make_sequences(EVEN)
    found = gradients(quantised, packed_logps(quantised, sequences).sum())
    assert found.keys() == {name for name, _ in quantised.named_parameters() if "lora_" in name}
    assert all(gradient.any() for gradient in found.values())
    in_4_bits = [name for name, p in quantised.named_parameters() if p.dtype == torch.uint8]
    assert len(in_4_bits) == 2 * 7
    assert quantised.head.weight.dtype == torch.float32
    with quantised.without_adapters(), torch.no_grad():
        ours, theirs = (packed_logps(model, sequences) for model in (quantised, load_backbone(path=str(folder))))
    error = (ours - theirs).norm() / theirs.norm()
    assert 1e-4 < error < 0.2  # of 16 levels a weight


def test_4_bit_weights_compute_in_the_dtype_of_autocast(quantised: CausalLM, make_sequences: MakeSequences) -> None:
    """Also after they have computed in another: bitsandbytes by itself keeps to the first."""
    layer = next(m for name, m in quantised.named_modules() if name.endswith("layers.1.mlp.up_proj.base_layer"))
    micro, seen = pack(make_sequences(EVEN)), []
    layer.register_forward_pre_hook(lambda module, args: seen.append((args[0].dtype, module.compute_dtype)))
    for is_on in (False, True, False):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_on):
            quantised(micro, token_logps)
    whole, half = (torch.float32,) * 2, (torch.bfloat16,) * 2
    assert seen == [whole, half, whole]


@torch.no_grad()
def test_adapters_on_4_bit_weights_are_merged_into_those_they_were_made_from(
    quantised: CausalLM, folder: Path, tmp_path: Path
) -> None:
    """W + alpha / rank · B A by hand, to the bit of one float32 product; all else as it was."""
    state = {name.replace(".base_layer.", "."): tensor.clone() for name, tensor in quantised.plain.state_dict().items()}
    quantised.save(tmp_path / "merged", end_of_turn_id=3)
    merged, base = (load_file(path / "model.safetensors") for path in (tmp_path / "merged", folder))
    assert merged.keys() == base.keys()
    for name, weight in base.items():
        layer = name.removesuffix(".weight")
        if f"{layer}.lora_B.default.weight" in state:
            update = state[f"{layer}.lora_B.default.weight"] @ state[f"{layer}.lora_A.default.weight"]
            assert update.abs().max() > 0.1
            weight = weight + 8 / 4 * update
        torch.testing.assert_close(merged[name], weight, rtol=1e-6, atol=1e-6)
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert "quantization_config" not in config
    assert load_backbone(path=str(tmp_path / "merged")).head.weight.dtype == torch.float32
