"""New models and folders become a policy, or are refused by name; checkpointing changes no gradient."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from redi_lab.backbone.adapters import Adapters
from redi_lab.backbone.loading import load_backbone
from redi_lab.errors import UserError
from tests.backbone.conftest import LORA, MakeBackbone, MakeSequences, gradients, packed_logps, trained_adapters

EVEN, UNEVEN = (9, 7, 8, 9), (200, 3, 2, 5)


@pytest.mark.parametrize(
    ("model_type", "config", "message"),
    [
        ("gemma2", {"head_dim": 8}, "model.path: .* soft-capping"),
        ("mistral", {"sliding_window": 6}, "a sequence of 9 tokens exceeds the sliding window of 6"),
        ("qwen2", {"hidden_sise": 96}, r"^model\.config\.hidden_sise: Qwen2Config has no such field$"),
        (
            "nonsense",
            {},
            r"^model\.config: Unrecognized model identifier: nonsense; choose other sizes or another model_type$",
        ),
        (
            "xglm",
            dict.fromkeys(["num_key_value_heads", "intermediate_size", "initializer_range"]),
            r"^model\.config: XGLMForCausalLM does not",
        ),
    ],
)
def test_new_models_that_cannot_be_are_refused(
    model_type: str, config: dict[str, Any], message: str, make_backbone: MakeBackbone
) -> None:
    with pytest.raises(UserError, match=message):
        make_backbone(model_type, config=config)


def test_a_new_model_fits_its_tokenizer(make_backbone: MakeBackbone, tokenizer: Any) -> None:
    backbone = make_backbone(config={"rope_theta": 5000.0})
    config = backbone.model.config
    assert backbone.head.weight.shape == (len(tokenizer), 32)
    assert (config.vocab_size, config.eos_token_id) == (len(tokenizer), tokenizer.eos_token_id)
    assert config.rope_parameters["rope_theta"] == 5000.0
    torch.testing.assert_close(make_backbone(seed=0).head.weight, make_backbone(seed=0).head.weight, rtol=0, atol=0)
    with pytest.raises(UserError, match=r"model\.path=null needs model\.config .* and a tokenizer"):
        load_backbone(path=None, config={"model_type": "qwen2"})


def test_overrides_reach_the_model_and_its_copy(folder: Path, make_sequences: MakeSequences, tmp_path: Path) -> None:
    """The rotary base of the paper's student: inverse frequencies are θ^(−2i/d)."""
    overrides = {"rope_theta": 300_000.0, "max_position_embeddings": 32_768}
    backbone = load_backbone(path=str(folder), config_overrides=overrides)
    backbone.save(tmp_path / "raised", end_of_turn_id=3)
    again = load_backbone(path=str(tmp_path / "raised"))
    expected = 300_000.0 ** (-torch.arange(0, 8, 2) / 8)
    for model in (backbone.model, again.model):
        torch.testing.assert_close(model.model.rotary_emb.inv_freq, expected)
        assert model.config.max_position_embeddings == 32_768
    sequences = make_sequences(EVEN)
    assert torch.equal(packed_logps(backbone, sequences), packed_logps(again, sequences))
    assert not torch.allclose(
        packed_logps(backbone, sequences), packed_logps(load_backbone(path=str(folder)), sequences)
    )


def test_an_unknown_override_is_refused(folder: Path, make_backbone: MakeBackbone) -> None:
    message = r"^model\.config_overrides\.rope_tetha: Qwen2Config has no such field$"
    with pytest.raises(UserError, match=message):
        load_backbone(path=str(folder), config_overrides={"rope_tetha": 1.0})
    with pytest.raises(UserError, match=message):
        make_backbone(config_overrides={"rope_tetha": 1.0})


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(UserError, match=rf"the tokenizer has {len(tokenizer)} tokens, .* {len(tokenizer) - 1}; give"):
        load_backbone(path=str(folder), tokenizer=tokenizer)


@pytest.mark.parametrize(
    ("name", "rows", "message"),
    [
        ("lm_head.weight", -2, r"lm_head\.weight has shape \(\d+, 32\), config\.json says \(\d+, 32\)"),
        ("model.embed_tokens.weight", -1, r"model\.embed_tokens\.weight has shape"),
        ("model.norm.weight", -1, r"model\.norm\.weight has shape \(31,\), config\.json says \(32,\)"),
        ("lm_head.weight", None, r"the weights of lm_head\.weight are missing; give a complete checkpoint"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    name: str, rows: int | None, message: str, tmp_path: Path, make_backbone: MakeBackbone
) -> None:
    """transformers would draw random ones instead and say so in a table."""
    make_backbone(config={"tie_word_embeddings": False}).save(tmp_path, end_of_turn_id=0)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    whole = weights.pop(name)
    if rows is not None:
        weights[name] = whole[:rows].contiguous()
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match=message):
        load_backbone(path=str(tmp_path))


def test_pickled_weights_are_refused(folder: Path) -> None:
    """Unpickling runs code."""
    weights = folder / "model.safetensors"
    model = AutoModelForCausalLM.from_pretrained(folder)
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    weights.unlink()
    with pytest.raises(UserError, match=r"cannot load its model: .*model\.safetensors"):
        load_backbone(path=str(folder))


def test_a_missing_folder_is_one_line(tmp_path: Path, folder: Path) -> None:
    missing = tmp_path / "gone"
    with pytest.raises(UserError) as caught:
        load_backbone(path=str(missing))
    assert str(caught.value).startswith(f"model.path={missing}: cannot load its tokenizer: ")
    assert "\n" not in str(caught.value)
    half = tmp_path / "half"
    shutil.copytree(folder, half)
    (half / "config.json").unlink()
    with pytest.raises(UserError, match=r"^model\.path=.*half: cannot load its \w+: .*$"):
        load_backbone(path=str(half))


@pytest.mark.parametrize("adapters", [None, LORA], ids=["full", "lora"])
def test_gradient_checkpointing_changes_no_gradient(
    adapters: Adapters | None, make_backbone: MakeBackbone, make_sequences: MakeSequences
) -> None:
    """It recomputes each layer once in backward, and that is all."""
    sequences = make_sequences(UNEVEN)
    found, runs = [], []
    for mode in ("none", "full"):
        backbone = trained_adapters(make_backbone(adapters=adapters, gradient_checkpointing=mode)).train()
        counted: list[int] = []
        layer = next(m for name, m in backbone.named_modules() if name.endswith("layers.0.mlp"))
        layer.register_forward_pre_hook(lambda *_, counted=counted: counted.append(1))
        found.append(gradients(backbone, packed_logps(backbone, sequences).sum()))
        runs.append(len(counted))
    assert runs == [1, 2]
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-5 * float(gradient.abs().max()))
