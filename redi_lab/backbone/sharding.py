"""FSDP2: each rank holds its rows of every weight, gradient and moment, and gathers a layer while it is in use.

The root is the whole `CausalLM`, whose forward applies the head. With transformers' model as the root, whose forward is
never called, embeddings would stay in pieces; with its inner model alone, a head that is tied to the embeddings would
be untied from them without a word: the loss of the first step would still be right.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable
from typing import Any, final

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.exactness import check_exactness
from redi_lab.errors import UserError


@final
class FSDP2(DDPStrategy):
    """As Lightning's strategy for DDP, but the policy is sharded instead of copied.

    Lightning's own one for FSDP2 would have each module shard itself, and moves offloaded weights back to the GPU.

    Args:
        offload: whether weights, gradients and moments wait in the memory of the CPU, where the optimizer then steps.
    """

    def __init__(self, *, offload: bool) -> None:
        super().__init__()
        self.offload = offload

    def configure_ddp(self) -> None:
        """Leave this rank its rows of the weights."""
        backbone, device = self.lightning_module.backbone, self.root_device.type
        if device == "cuda":
            with self.precision_plugin.forward_context():
                check_exactness(backbone)
        self.sharded = Sharded(backbone, init_device_mesh(device, (self.world_size,)), offload=self.offload)


@final
class Sharded:
    """A policy whose weights are shared out, and how to gather them.

    Args:
        backbone: the same on every rank; it is changed in place.
        mesh: of one dimension, over all ranks.
        offload: see `FSDP2`.

    Raises:
        UserError: see `layers_to_shard`.
    """

    def __init__(self, backbone: CausalLM, mesh: DeviceMesh, *, offload: bool) -> None:
        layers = layers_to_shard(backbone)
        self._backbone, self._mesh = backbone, mesh
        self._blueprint = _copy(backbone, (tensor.to("meta") for tensor in backbone.parameters()))
        policy = CPUOffloadPolicy(pin_memory=mesh.device_type == "cuda") if offload else OffloadPolicy()
        if offload:
            backbone.computes_on = backbone.device
        for module in (*layers, backbone):
            fully_shard(module, mesh=mesh, offload_policy=policy)
        backbone.register_forward_hook(_let_go)

    @torch.no_grad()
    def whole(self, device: torch.device) -> CausalLM | None:
        """A copy with all weights, on the first rank alone; every rank has to ask for it."""
        parameters = (whole(p.to(self._mesh.device_type)) for p in self._backbone.parameters())
        if self._mesh.get_local_rank() > 0:
            for _ in parameters:  # each is gathered by all
                pass
            return None
        found = _copy(self._blueprint, (p.to(device) for p in parameters)).to(device)
        return found.train(self._backbone.training)


def layers_to_shard(backbone: CausalLM) -> list[nn.Module]:
    """The layers that are gathered one at a time; all other weights are the root's.

    Raises:
        UserError: the model does not name its layers, or has weights that cannot be shared out in rows.
    """
    model = backbone.plain
    name = f"trainer.strategy=fsdp2: {type(model).__name__}"
    kinds = model._no_split_modules or ()
    layers = [module for module in model.base_model.modules() if type(module).__name__ in kinds]
    if not layers:
        raise UserError(f"{name} does not say which of its layers belong together; set trainer.strategy=ddp")
    inside = {module for layer in layers for module in layer.modules()}
    outside = {p for module in backbone.modules() if module not in inside for p in module.parameters(recurse=False)}
    owners = Counter(p for group in (*(set(layer.parameters()) for layer in layers), outside) for p in group)
    for label, parameter in backbone.model.named_parameters():
        if owners[parameter] > 1:
            raise UserError(f"{name} uses {label} in several layers; set trainer.strategy=ddp")
        if not parameter.is_floating_point():
            raise UserError(f"{name} has quantised weights ({label}: {parameter.dtype}); set trainer.strategy=ddp")
    return layers


def is_sharded(backbone: CausalLM) -> bool:
    """Whether this rank has rows of its weights alone."""
    return isinstance(backbone, FSDPModule)


def whole_policy(trainer: Trainer, backbone: CausalLM, device: torch.device) -> CausalLM | None:
    """The policy or, where it is sharded, a copy on `device`, on the first rank alone; every rank has to ask for it."""
    strategy = trainer.strategy
    return strategy.sharded.whole(device) if isinstance(strategy, FSDP2) else backbone


def whole(tensor: Tensor) -> Tensor:
    """All rows of a tensor, gathered where it is sharded; every rank has to ask for it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor: Tensor) -> Tensor:
    """This rank's rows of a tensor, of which it is a view; all where it is not sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _copy(backbone: CausalLM, parameters: Iterable[Tensor]) -> CausalLM:
    """A copy with other tensors in the places of its parameters; tied ones stay tied."""
    places = zip(backbone.parameters(), parameters, strict=True)
    memo: dict[int, Any] = {id(old): nn.Parameter(new, old.requires_grad) for old, new in places}
    return copy.deepcopy(backbone, memo | {id(backbone.tokenizer): backbone.tokenizer})


def _let_go(module: nn.Module, *_: Any) -> None:
    """The root keeps its weights for the backward pass; where none follows, none may be left whole between steps."""
    assert isinstance(module, FSDPModule)
    if not torch.is_grad_enabled():
        module.reshard()
