"""What enters a block of projections is cast once under autocast, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.backbone.conftest import SIZES, MakeBackbone, MakeSequences, pack
from tests.backbone.test_causal_lm import ARCHITECTURES, architecture


@pytest.mark.parametrize("model_type", ["qwen2", "llama"])
def test_one_copy_is_kept_for_all_projections_of_a_block(
    model_type: str, make_backbone: MakeBackbone, make_sequences: MakeSequences
) -> None:
    backbone = make_backbone(model_type)
    batch = pack(make_sequences((40, 30)))
    kept: dict[int, Tensor] = {}

    def keep(saved: Tensor) -> Tensor:
        if saved.dtype == torch.bfloat16 and saved.shape == (70, SIZES["hidden_size"]):
            kept[saved.data_ptr()] = saved  # alive, so that no address is used again
        return saved

    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        backbone.hidden_states(batch)
    # In each layer: for q, k and v; for the output projection; for gate and up.
    assert len(kept) == 3 * 2


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_no_bit_changes(name: str, make_backbone: MakeBackbone, make_sequences: MakeSequences) -> None:
    backbone = make_backbone(**architecture(name)).eval()
    batch = pack(make_sequences((40, 30)))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        ours = backbone.hidden_states(batch)
        for module in backbone.modules():
            module._forward_pre_hooks.clear()
            module._forward_pre_hooks_with_kwargs.clear()
        assert torch.equal(ours, backbone.hidden_states(batch))
