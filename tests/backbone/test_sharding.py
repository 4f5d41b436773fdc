"""Sharding on a mesh of one rank: the right root, two wrong ones, whole copies, and rows in files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.sharding import Sharded, is_sharded, layers_to_shard, part, whole
from redi_lab.callbacks.training_state import SavedRows, save_rows
from redi_lab.data.packing import MicroBatch, make_batch
from redi_lab.errors import UserError
from redi_lab.losses.logps import token_logps, weighted_logp_sum
from tests.backbone.conftest import LORA, MakeBackbone, trained_adapters
from tests.modules.tiny_runs import flat, make_backbone, make_data, relative_error

EMBEDDINGS, HEAD = "model.model.embed_tokens.weight", "model.lm_head.weight"


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DeviceMesh]:
    store = tmp_path_factory.mktemp("ranks") / "store"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOO_SOCKET_IFNAME", "lo")
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
        yield init_device_mesh("cpu", (1,))
        dist.destroy_process_group()


def row() -> MicroBatch:
    examples = make_data("redi").train_examples[:2]
    (micro,) = make_batch(examples, token_budget=10_000, split_examples=True).micro_batches
    return micro


def loss_and_gradients(backbone: CausalLM) -> tuple[float, dict[str, torch.Tensor]]:
    """Of a weighted sum, by the name of each parameter."""
    micro = row()
    weights = torch.linspace(-1.0, 0.5, len(micro.targets))
    total = backbone(micro, partial(weighted_logp_sum, token_weights=weights)).total
    total.backward()
    return total.item(), {n: whole(p.grad) for n, p in backbone.named_parameters() if p.grad is not None}


def sharded(mesh: DeviceMesh, **options: Any) -> tuple[CausalLM, Sharded]:
    backbone = make_backbone(**options)
    return backbone, Sharded(backbone, mesh, offload=False)


@pytest.mark.parametrize("is_tied", [True, False])
def test_a_sharded_policy_has_the_gradients_of_a_whole_one(is_tied: bool, mesh: DeviceMesh) -> None:
    backbone, _ = sharded(mesh, is_tied=is_tied)
    assert all(isinstance(parameter, DTensor) for parameter in backbone.parameters())
    (loss, found), (expected_loss, expected) = map(loss_and_gradients, (backbone, make_backbone(is_tied=is_tied)))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert found.keys() == expected.keys()
    assert (HEAD in found) != is_tied
    for name, gradient in expected.items():
        assert relative_error(found[name], gradient) < 1e-5, name


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "llama"},
        {"model_type": "gemma2", "attention": "padded"},
        {"adapters": LORA},
        {"adapters": LORA, "dtype": "bfloat16"},
    ],
    ids=lambda options: " ".join(map(str, options)) + str(options.get("dtype", "")),
)
def test_so_have_other_architectures_and_adapters(
    options: dict[str, Any], mesh: DeviceMesh, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """And what is saved of a whole copy is what is saved of a policy that was never sharded."""
    make: MakeBackbone = request.getfixturevalue("make_backbone")
    backbone, plain = (trained_adapters(make(**options)) for _ in range(2))
    holder = Sharded(backbone, mesh, offload=True)
    (loss, found), (expected_loss, expected) = map(loss_and_gradients, (backbone, plain))
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert relative_error(found[name], gradient) < 1e-5, name
    copied = holder.whole(torch.device("cpu"))
    assert copied is not None
    for model, name in ((copied, "copied"), (plain, "plain")):
        model.save(tmp_path / name, end_of_turn_id=0)
    files = [path.relative_to(tmp_path / "plain") for path in (tmp_path / "plain").rglob("*") if path.is_file()]
    assert (Path("adapter/adapter_model.safetensors") in files) == ("adapters" in options)
    assert all((tmp_path / "copied" / f).read_bytes() == (tmp_path / "plain" / f).read_bytes() for f in files)


def test_the_inner_model_as_root_would_untie_the_head(mesh: DeviceMesh) -> None:
    """The loss does not show it, the gradients do: what test_ranks.py compares."""
    backbone = make_backbone()
    for module in (*layers_to_shard(backbone), backbone.plain.base_model):
        fully_shard(module, mesh=mesh)
    loss, found = loss_and_gradients(backbone)
    expected_loss, expected = loss_and_gradients(make_backbone())
    assert loss == pytest.approx(expected_loss, rel=1e-6)
    assert not isinstance(dict(backbone.named_parameters())[HEAD], DTensor)
    assert relative_error(found[EMBEDDINGS], expected[EMBEDDINGS]) > 0.1


def test_a_call_past_the_root_would_find_rows_for_weights(mesh: DeviceMesh) -> None:
    backbone = make_backbone()
    for module in (*layers_to_shard(backbone), backbone.model):
        fully_shard(module, mesh=mesh)
    with pytest.raises(RuntimeError, match=r"mixed torch\.Tensor and DTensor"):
        loss_and_gradients(backbone)


def test_a_pass_without_gradients_leaves_nothing_whole(mesh: DeviceMesh) -> None:
    """A state that is saved between two steps would otherwise take what is gathered for what is trained."""
    backbone, _ = sharded(mesh)
    with torch.no_grad():
        backbone(row(), token_logps)
    assert all(isinstance(parameter, DTensor) for parameter in backbone.parameters())


def test_a_whole_copy_is_a_model_like_any_other(mesh: DeviceMesh, tmp_path: Path) -> None:
    backbone, holder = sharded(mesh)
    with torch.no_grad():
        for parameter in backbone.parameters():
            part(parameter).mul_(1.5)
    backbone.eval()
    copied = holder.whole(torch.device("cpu"))
    assert copied is not None
    assert (is_sharded(copied), copied.training, is_sharded(backbone)) == (False, False, True)
    assert torch.equal(flat(list(copied.parameters())), 1.5 * flat(list(make_backbone().parameters())))
    assert copied.plain.lm_head.weight is copied.plain.model.embed_tokens.weight
    loss, found = loss_and_gradients(copied)
    assert found.keys() == dict(make_backbone().named_parameters()).keys()
    assert loss == pytest.approx(loss_and_gradients(backbone)[0], rel=1e-6)
    copied.save(tmp_path, end_of_turn_id=0)
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118 (it is not a dictionary)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(flat(list(loaded.parameters())), flat(list(copied.parameters())))


def test_models_that_cannot_be_sharded_are_refused() -> None:
    nameless, shared, quantised = make_backbone(), make_backbone(), make_backbone()
    nameless.plain._no_split_modules = None
    first, second = shared.plain.model.layers
    second.mlp.up_proj.weight = first.mlp.up_proj.weight
    codes = nn.Parameter(torch.zeros(4, 1, dtype=torch.uint8), requires_grad=False)
    quantised.plain.model.layers[0].mlp.up_proj.weight = codes
    for backbone, message in (
        (nameless, "does not say which of its layers belong together"),
        (shared, r"uses model\.layers\.0\.mlp\.up_proj\.weight in several layers"),
        (quantised, r"has quantised weights \(model\.layers\.0\.mlp\.up_proj\.weight: torch\.uint8\)"),
    ):
        with pytest.raises(UserError, match=rf"^trainer\.strategy=fsdp2: Qwen2ForCausalLM {message}"):
            layers_to_shard(backbone)


def test_rows_that_any_number_of_ranks_saved_come_back(mesh: DeviceMesh, tmp_path: Path) -> None:
    """Five rows by three ranks of two, two and one, and by a rank without any; into a sharded and a whole place."""
    values = torch.arange(10.0).view(5, 2)
    for rank, rows in enumerate((values[:2], values[2:4], values[4:], values[5:])):
        save_file({"/w": rows.contiguous()}, tmp_path / f"rows-{rank:05}.safetensors")
    stand_in = torch.empty(5, 2, device="meta")
    layer = nn.Linear(2, 5, bias=False)
    fully_shard(layer, mesh=mesh)
    saved = SavedRows(tmp_path)
    assert torch.equal(saved.restored(stand_in, torch.zeros(5, 2), "/w"), values)
    found = saved.restored(stand_in, layer.weight, "/w")
    assert isinstance(found, DTensor)
    assert torch.equal(found.full_tensor(), values)
    assert torch.equal(saved.restored(values, layer.weight, "/w").full_tensor(), values)
    assert torch.equal(saved._rows("/w", 1, 3), values[1:4])
    assert saved._rows("/w", 5, 0).shape == (0, 2)
    assert saved.restored(torch.tensor(3.0), layer.weight, "/step") == 3.0


def test_what_is_sharded_in_a_state_goes_to_a_file(mesh: DeviceMesh, tmp_path: Path) -> None:
    layer = nn.Linear(2, 5)
    expected = layer.weight.detach().clone()
    fully_shard(layer, mesh=mesh)
    state = {"weights": [layer.weight, torch.ones(1)], "rate": 0.1}
    stripped = save_rows(state, tmp_path, rank=3)
    assert (stripped["rate"], stripped["weights"][1]) == (0.1, torch.ones(1))
    assert (stripped["weights"][0].is_meta, stripped["weights"][0].shape) == (True, (5, 2))
    torch.save(stripped, tmp_path / "state.pt")
    assert torch.load(tmp_path / "state.pt", weights_only=True)["weights"][0].is_meta
    with safe_open(tmp_path / "rows-00003.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("/weights/0"), expected)
    assert json.dumps(save_rows({"rate": 0.1}, tmp_path / "none", rank=0)) == '{"rate": 0.1}'  # and no file
