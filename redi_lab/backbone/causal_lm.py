"""The one wrapper of a transformers causal LM that every objective trains.

It yields hidden states of packed rows and the LM head; the log-prob kernel in `losses/logps.py` joins the two without
ever building [tokens × vocabulary]. `backbone/loading.py` makes it, `backbone/exactness.py` refuses architectures that
these shortcuts do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar, final

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import GenerationConfig

from redi_lab.backbone.adapters import merge
from redi_lab.backbone.attention import PACKED_SDPA, from_grid, own_attention, packed_arguments, to_grid
from redi_lab.data.packing import Batch, MicroBatch
from redi_lab.losses.logps import token_logps
from redi_lab.losses.sequences import compute_dtype
from redi_lab.losses.vocabulary import Head

REWARD_HEAD = "reward_head.safetensors"
"""File of a scalar head, beside the model."""
CHUNK = {"cpu": 1024, "other": 4096}
"""Tokens of the head at a time; a GPU's products want more rows."""
T = TypeVar("T")


@final
class CausalLM(nn.Module):
    """A causal LM with its tokenizer.

    Args:
        model: a transformers causal LM, or a peft model around one.
        tokenizer: its tokenizer.
        is_padded: feed it padded grids with its own attention, instead of packed rows.
        head_chunk_tokens: most tokens whose logits exist at a time; None: what suits the device.
        load_unquantised: gives the weights that 4-bit ones were made from; None where there are none.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        is_padded: bool = False,
        head_chunk_tokens: int | None = None,
        load_unquantised: Callable[[], Any] | None = None,
    ) -> None:
        super().__init__()
        self._load_unquantised = load_unquantised
        self.model = model
        self.tokenizer = tokenizer
        self.is_padded = is_padded
        self.head_chunk_tokens = head_chunk_tokens
        self.reward_head: nn.Parameter | None = None
        self.computes_on: torch.device | None = None  # where the weights wait on another device than they are used on
        for name, module in self.plain.base_model.named_modules():
            if _projects_its_input(name, module):
                module.register_forward_pre_hook(_to_autocast_dtype, with_kwargs=True)

    @property
    def plain(self) -> Any:
        """The transformers model itself, adapters in place."""
        return self.model.get_base_model() if self.has_adapters else self.model

    @property
    def has_adapters(self) -> bool:
        """Whether adapters are trained, and the model itself is left as it is."""
        return hasattr(self.model, "get_base_model")

    def without_adapters(self) -> AbstractContextManager[None]:
        """Within the block it computes as the model that the adapters are trained on: their reference."""
        context: AbstractContextManager[None] = self.model.disable_adapter() if self.has_adapters else nullcontext()
        return context

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        device: torch.device = self.computes_on or self.plain.device
        return device

    @property
    def max_positions(self) -> int | None:
        """Longest sequence that the model was made for; None where it sets no limit."""
        limit: int | None = getattr(self.plain.config.get_text_config(), "max_position_embeddings", None)
        return limit

    @property
    def unsupported_window(self) -> int | None:
        """Longest sequence that packed rows get right; None where nothing limits it."""
        window: int | None = getattr(self.plain.config.get_text_config(), "sliding_window", None)
        return None if self.is_padded or self.plain.config._attn_implementation != PACKED_SDPA else window

    @property
    def head(self) -> Head:
        """What turns hidden states into logits; its weight is tied to the embeddings in many models."""
        layer, config = self.plain.get_output_embeddings(), self.plain.config
        scale = getattr(config, "logit_scale", None) or 1.0
        return Head(
            layer.weight,
            getattr(layer, "bias", None),
            softcap=getattr(config, "final_logit_softcapping", None),
            scale=scale / (getattr(config, "logits_scaling", None) or 1.0),
            chunk_size=self.head_chunk_tokens or CHUNK.get(layer.weight.device.type, CHUNK["other"]),
        )

    def hidden_states(self, batch: MicroBatch) -> Tensor:
        """(T, H) of the last layer, in the dtype of autocast where it is on; each sequence sees itself alone."""
        hidden = self._padded_states(batch) if self.is_padded else self._packed_states(batch)
        # Autocast keeps the residual stream in fp32, and the head's products, which cost the most, would follow it.
        device = hidden.device.type
        return hidden.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else hidden

    def forward(self, batch: MicroBatch, use: Callable[[Tensor, Head, Tensor], T]) -> T:
        """What `use` makes of (N, H) hidden states that predict the completion tokens, the head, and (N,) these tokens.

        The only place where hidden states meet the head: where weights are sharded, both are whole in here alone.
        """
        return use(self.hidden_states(batch).index_select(0, batch.predictors), self.head, batch.targets)

    @torch.no_grad()
    def token_logps(self, batch: Batch) -> Iterator[tuple[MicroBatch, Tensor]]:
        """The micro-batches of a global batch on the model's device, with (N,) log-probs of their completion tokens."""
        for micro in (micro.to(self.device) for micro in batch.micro_batches):
            yield micro, self(micro, token_logps).logps

    def add_reward_head(self, weight: Tensor | None = None) -> None:
        """Add a scalar head of this weight (1, H), or of zeros; what the LM head has alone is frozen, being unused."""
        layer, embedding = self.plain.get_output_embeddings(), self.plain.get_input_embeddings().weight
        if weight is None:
            weight = layer.weight.new_zeros(1, layer.weight.shape[1], dtype=compute_dtype(layer.weight))
        self.reward_head = nn.Parameter(weight)
        for parameter in layer.parameters():
            if parameter is not embedding:
                parameter.requires_grad_(False)

    def token_scores(self, batch: MicroBatch) -> Tensor:
        """(N,) the scalar head's scores of the completion tokens, each where it is predicted, as in OREAL's code.

        Raises:
            ValueError: there is no head.
        """
        if self.reward_head is None:
            raise ValueError("add_reward_head comes first")

        def score(hidden: Tensor, *_: object) -> Tensor:
            head = self.reward_head  # only here is it whole where weights are sharded
            assert head is not None
            return (hidden.to(head.dtype) * head).sum(-1)  # no matrix product: autocast would round it to bfloat16

        scores: Tensor = self(batch, score)
        return scores

    def _packed_states(self, batch: MicroBatch) -> Tensor:
        output = self.plain.base_model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **packed_arguments(batch)
        )
        hidden: Tensor = output.last_hidden_state.squeeze(0)
        return hidden

    def _padded_states(self, batch: MicroBatch) -> Tensor:
        """Padding lies behind each sequence, so causality alone would hide it; the mask is for layers that ask."""
        ids, slots = batch.input_ids.squeeze(0), batch.dense_slots
        grid, mask = (to_grid(row, slots, batch.segment_lengths) for row in (ids, torch.ones_like(ids)))
        output = self.plain.base_model(input_ids=grid, attention_mask=mask, use_cache=False)
        return from_grid(output.last_hidden_state, slots)

    @contextmanager
    def for_generation(self) -> Iterator[Any]:
        """The transformers model with plain attention; its attention and generation settings return afterwards."""
        model = self.plain
        attention, settings = model.config._attn_implementation, model.generation_config
        model.set_attn_implementation(own_attention(model.config))
        try:
            yield model
        finally:
            model.set_attn_implementation(attention)
            model.generation_config = settings

    def save(self, folder: Path, end_of_turn_id: int) -> None:
        """Write a Hugging Face folder: safetensors, tokenizer, generation config.

        Adapters are merged into its weights, and lie alone in its folder `adapter`, as peft loads them. A scalar head
        lies in `REWARD_HEAD`.
        """
        model = self.plain
        if self.has_adapters:
            self.model.save_pretrained(folder / "adapter", save_embedding_layers=False)  # else it asks the hub
            model = merge(self.model, self._load_unquantised)
        model.generation_config = GenerationConfig(
            eos_token_id=end_of_turn_id,
            pad_token_id=end_of_turn_id if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id,
        )
        model.save_pretrained(folder)
        if self.reward_head is not None:
            save_file({"weight": self.reward_head.detach().contiguous()}, folder / REWARD_HEAD)
        self.tokenizer.save_pretrained(folder)


def _projects_its_input(name: str, module: nn.Module) -> bool:
    """Whether a module needs what enters it for matrix products alone; a mixture of experts adds up in its dtype."""
    kind = name.rpartition(".")[2]
    parts = (part for part in module.children() if next(part.parameters(), None) is not None)
    layers = (getattr(part, "base_layer", part) for part in parts)  # beneath an adapter
    return kind == "self_attn" or (kind == "mlp" and all(isinstance(layer, nn.Linear) for layer in layers))


def _to_autocast_dtype(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Cast what enters a block of projections once; autocast would for each of them, and keep every copy."""
    states = args[0] if args else kwargs.get("hidden_states")
    if states is None or not torch.is_autocast_enabled(states.device.type):
        return None
    lowered = states.to(torch.get_autocast_dtype(states.device.type))
    return ((lowered, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": lowered})
