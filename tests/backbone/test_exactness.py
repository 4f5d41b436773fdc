"""What packed rows or the external head do not fit is refused, and the check itself leaves no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from redi_lab.backbone.attention import PACKED_SDPA
from redi_lab.backbone.exactness import check_exactness
from redi_lab.errors import UserError
from tests.backbone.conftest import MakeBackbone


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        # Fresh weights of the usual size: this convolution leaks less than bfloat16 rounds.
        ("lfm2", {"layer_types": ["conv", "full_attention"], "initializer_range": 0.02}),
        ("jamba", {"mamba_expand": 1, "mamba_dt_rank": 4}),
    ],
)
def test_layers_that_mix_tokens_outside_attention_are_refused(
    model_type: str, config: dict[str, Any], dtype: str, make_backbone: MakeBackbone
) -> None:
    with pytest.raises(
        UserError, match=r"^model\.path: \w+ForCausalLM cannot be packed exactly: .* set model\.attention=padded"
    ):
        make_backbone(model_type, config=config, dtype=dtype)


@pytest.mark.parametrize("strength", [1.0, 1e-6])
def test_any_leak_is_found(strength: float, make_backbone: MakeBackbone) -> None:
    """Also one far below the rounding of the states that it changes."""
    backbone = make_backbone()
    layer = backbone.model.model.layers[0]
    hook = layer.mlp.register_forward_hook(lambda _, __, output: output + strength * output.roll(1, dims=1))
    with pytest.raises(UserError, match="Qwen2ForCausalLM cannot be packed exactly"):
        check_exactness(backbone)
    hook.remove()
    check_exactness(backbone)


def test_logits_made_in_another_way_are_refused(make_backbone: MakeBackbone) -> None:
    backbone = make_backbone()
    hook = backbone.model.lm_head.register_forward_hook(lambda _, __, logits: 1.5 * logits)
    with pytest.raises(UserError, match=r"Qwen2ForCausalLM computes its logits .* \(largest difference \d"):
        check_exactness(backbone)
    hook.remove()
    check_exactness(backbone)


@pytest.mark.parametrize("is_training", [True, False])
def test_the_check_leaves_no_trace(is_training: bool, make_backbone: MakeBackbone) -> None:
    backbone = make_backbone(config={"attention_dropout": 0.5}).train(is_training)  # would differ in training mode
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    check_exactness(backbone)
    assert backbone.training is is_training
    assert backbone.model.config._attn_implementation == PACKED_SDPA
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
