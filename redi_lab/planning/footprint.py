"""What the layers of a model hold in memory, found by running them on tensors that have shapes but no storage.

So no formula has to follow what transformers, autocast, adapters and checkpointing do: one and two layers run forward
and backward as in training, every new storage is counted until it is let go of, and the difference is a layer's.
"""

from __future__ import annotations

import json
import warnings
import weakref
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, NamedTuple, final

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AttentionInterface, AutoConfig, AutoModelForCausalLM

from redi_lab.backbone.adapters import Adapters
from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.loading import set_checkpointing

_ATTENTION = "planned_sdpa"
_NF4_BYTES = 0.516
"""4 bits, and 8 for the scale of each 64 with theirs in 32 for each 256 (QLoRA, arXiv 2305.14314, section 3)."""


class Sizes(NamedTuple):
    """A policy in numbers of parameters, and bytes where it says so."""

    parameters: int
    trained: int
    weight_bytes: int
    trained_bytes: int
    products: int
    """Weights of the matrix products of the layers."""
    trained_products: int
    head: tuple[int, int]
    """(V, H)"""
    is_head_trained: bool
    is_tied: bool
    attention_width: int
    """Width of all heads, over all layers."""
    cache_width: int
    """Of keys and values, over all layers."""

    def quantised(self, bytes_each: int) -> Sizes:
        """With the matrices of the layers that are not trained in 4 bits, from numbers of `bytes_each`."""
        frozen = self.products - self.trained_products
        return self._replace(weight_bytes=self.weight_bytes - round(frozen * (bytes_each - _NF4_BYTES)))

    @classmethod
    def of(cls, model: Any) -> Sizes:
        """Those of a transformers model, or of a peft model around one; on the meta device they are exact, too."""
        plain = model.get_base_model() if hasattr(model, "get_base_model") else model
        text, head = plain.config.get_text_config(), plain.get_output_embeddings().weight
        embedding, everything = plain.get_input_embeddings().weight, list(model.parameters())
        trained = [p for p in everything if p.requires_grad]
        inside = [p for p in everything if p.dim() >= 2 and p is not head and p is not embedding]
        heads, layers = text.num_attention_heads, text.num_hidden_layers
        width = getattr(text, "head_dim", None) or text.hidden_size // heads
        return cls(
            parameters=sum(p.numel() for p in everything),
            trained=sum(p.numel() for p in trained),
            weight_bytes=sum(p.nbytes for p in everything),
            trained_bytes=sum(p.nbytes for p in trained),
            products=sum(p.numel() for p in inside),
            trained_products=sum(p.numel() for p in inside if p.requires_grad),
            head=(head.shape[0], head.shape[1]),
            is_head_trained=head.requires_grad,
            is_tied=head is embedding,
            attention_width=layers * heads * width,
            cache_width=2 * layers * (getattr(text, "num_key_value_heads", None) or heads) * width,
        )


class Layers(NamedTuple):
    """Bytes that the layers of a model hold for one row, beyond weights, gradients and optimizer."""

    kept: int
    """Between forward and backward."""
    peak: int
    """At most, in the backward pass."""


def new_model(config: Any, dtype: str, lora: Mapping[str, Any] | None) -> Any:
    """A model as `load_backbone` makes it, on the meta device: shapes without numbers."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation=_ATTENTION)
        return model if lora is None else Adapters(**lora).add_to(model)


def measure_layers(
    config: Any, *, dtype: str, lora: Mapping[str, Any] | None, precision: str, checkpointing: str, tokens: int
) -> Layers:
    """What all layers of a model hold for a row.

    Args:
        config: of transformers.
        dtype: of the weights.
        lora: arguments of `Adapters`, or None.
        precision: "bf16-mixed" or "32-true".
        checkpointing: see `set_checkpointing`.
        tokens: of the row.

    Raises:
        RuntimeError: the model's forward pass depends on numbers, which are not there.
    """
    named, layers = config.to_json_string(use_diff=False), config.get_text_config().num_hidden_layers
    one, two = (_run(named, json.dumps(lora), n, dtype, precision, checkpointing, tokens) for n in (1, 2))
    return Layers(*(first + (layers - 1) * (second - first) for first, second in zip(one, two, strict=True)))


@lru_cache(maxsize=256)
def _run(named: str, lora: str, layers: int, dtype: str, precision: str, checkpointing: str, tokens: int) -> Layers:
    config = AutoConfig.for_model(**json.loads(named))
    text = config.get_text_config()
    text.num_hidden_layers = layers
    if getattr(text, "layer_types", None):
        text.layer_types = (text.layer_types * 2)[:layers]  # a model may have one layer
    model = new_model(config, dtype, json.loads(lora)).train()
    # As Lightning has it: no cast is kept for the next use.
    mixed = torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed", cache_enabled=False)
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _pretend_to_be_on_a_cpu(model)
        backbone = CausalLM(model, tokenizer=None)
        set_checkpointing(backbone.plain, checkpointing)
        with _Live(model) as live, mixed:
            states = torch.empty(1, tokens, text.hidden_size, dtype=getattr(torch, dtype), requires_grad=True)
            positions = torch.arange(tokens)[None]
            output = backbone.plain.base_model(inputs_embeds=states, position_ids=positions, use_cache=False)
            kept, hidden = live.now, output.last_hidden_state
            del output
            hidden.backward(torch.empty_like(hidden))
        return Layers(kept, live.peak)


def _pretend_to_be_on_a_cpu(model: nn.Module) -> None:
    """Replace tensors of the meta device, which autocast does not know, by those of the active `FakeTensorMode`."""
    made: dict[Tensor, Tensor] = {}  # tied weights stay tied
    tensors: Any
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, old in tensors.items():
                if old is None:
                    continue
                if old not in made:
                    new = torch.empty(old.shape, dtype=old.dtype)
                    made[old] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
                tensors[name] = made[old]


@final
class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that operators make, until they are let go of; weights and gradients are free."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}
        for parameter in model.parameters():
            self._count(parameter, is_free=True)
            if parameter.requires_grad:
                parameter.grad = torch.empty_like(parameter)
                self._count(parameter.grad, is_free=True)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value)
        return result

    def _count(self, tensor: Tensor, *, is_free: bool = False) -> None:
        storage = tensor.untyped_storage()
        if id(storage) not in self._known:
            size = 0 if is_free else storage.nbytes()
            self._known[id(storage)] = weakref.ref(storage, partial(self._forget, id(storage), size))
            self.now += size
            self.peak = max(self.peak, self.now)

    def _forget(self, key: int, size: int, _: object) -> None:
        self.now -= size
        del self._known[key]


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **_: Any
) -> tuple[Tensor, None]:
    """What every fused kernel keeps: queries, keys, values, results and a number for each query."""
    query, key = query.to(value.dtype), key.to(value.dtype)
    is_grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=is_grouped).transpose(1, 2), None


AttentionInterface.register(_ATTENTION, _attention)
