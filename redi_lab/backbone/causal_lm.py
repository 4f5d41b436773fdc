"""The one wrapper of a transformers causal LM that every objective trains.

It yields hidden states of packed rows and the head's parameters; the log-prob kernel in `losses/logps.py` joins the two
without ever building [tokens × vocabulary]. Before training, `check_exactness` compares both shortcuts (packed
attention, external head) with the model's own forward pass, so that an architecture they do not fit is refused instead
of being trained on wrong numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import create_selective_checkpoint_contexts
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

from redi_lab.backbone.attention import PACKED_SDPA, PADDED, from_grid, packed_arguments, to_grid
from redi_lab.backbone.hub import from_hub, load_tokenizer
from redi_lab.backbone.weights import check_loaded, check_vocabulary, vocabulary_size
from redi_lab.data.packing import MicroBatch, make_batch
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.errors import UserError, in_short

_CHUNK = {"cpu": 1024, "other": 4096}  # tokens of the head at a time; a GPU's products want more rows


@final
class CausalLM(nn.Module):
    """A causal LM with its tokenizer.

    Args:
        model: a transformers causal LM, or a peft model around one.
        tokenizer: its tokenizer.
        is_padded: feed it padded grids with its own attention, instead of packed rows.
        head_chunk_tokens: most tokens whose logits exist at a time; None: what suits the device.
    """

    def __init__(
        self, model: Any, tokenizer: Any, *, is_padded: bool = False, head_chunk_tokens: int | None = None
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.is_padded = is_padded
        self.head_chunk_tokens = head_chunk_tokens
        for name, module in self._plain.base_model.named_modules():
            if _projects_its_input(name, module):
                module.register_forward_pre_hook(_to_autocast_dtype, with_kwargs=True)

    @property
    def _plain(self) -> Any:
        """The transformers model itself, adapters in place."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def max_positions(self) -> int | None:
        """Longest sequence that the model was made for; None where it sets no limit."""
        limit: int | None = getattr(self._plain.config.get_text_config(), "max_position_embeddings", None)
        return limit

    @property
    def unsupported_window(self) -> int | None:
        """Longest sequence that packed rows get right; None where nothing limits it."""
        window: int | None = getattr(self._plain.config.get_text_config(), "sliding_window", None)
        return None if self.is_padded or self._plain.config._attn_implementation != PACKED_SDPA else window

    @property
    def head_weight(self) -> Tensor:
        """(V, H), tied to the embeddings in many models."""
        weight: Tensor = self._plain.get_output_embeddings().weight
        return weight

    @property
    def head_options(self) -> dict[str, Any]:
        """What turns hidden states into logits besides the weight, and how many at a time."""
        config = self._plain.config
        scale = getattr(config, "logit_scale", None) or 1.0
        return {
            "bias": getattr(self._plain.get_output_embeddings(), "bias", None),
            "softcap": getattr(config, "final_logit_softcapping", None),
            "scale": scale / (getattr(config, "logits_scaling", None) or 1.0),
            "chunk_size": self.head_chunk_tokens or _CHUNK.get(self.head_weight.device.type, _CHUNK["other"]),
        }

    def hidden_states(self, batch: MicroBatch) -> Tensor:
        """(T, H) of the last layer, in the dtype of autocast where it is on; each sequence sees itself alone."""
        hidden = self._padded_states(batch) if self.is_padded else self._packed_states(batch)
        # Autocast keeps the residual stream in fp32, and the head's products, which cost the most, would follow it.
        device = hidden.device.type
        return hidden.to(torch.get_autocast_dtype(device)) if torch.is_autocast_enabled(device) else hidden

    def _packed_states(self, batch: MicroBatch) -> Tensor:
        output = self._plain.base_model(
            input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False, **packed_arguments(batch)
        )
        hidden: Tensor = output.last_hidden_state.squeeze(0)
        return hidden

    def _padded_states(self, batch: MicroBatch) -> Tensor:
        """Padding lies behind each sequence, so causality alone would hide it; the mask is for layers that ask."""
        ids, slots = batch.input_ids.squeeze(0), batch.dense_slots
        grid, mask = (to_grid(row, slots, batch.segment_lengths) for row in (ids, torch.ones_like(ids)))
        output = self._plain.base_model(input_ids=grid, attention_mask=mask, use_cache=False)
        return from_grid(output.last_hidden_state, slots)

    @contextmanager
    def for_generation(self) -> Iterator[Any]:
        """The transformers model with plain attention; its attention and generation settings return afterwards."""
        model = self._plain
        attention, settings = model.config._attn_implementation, model.generation_config
        model.set_attn_implementation(_own_attention(model.config))
        try:
            yield model
        finally:
            model.set_attn_implementation(attention)
            model.generation_config = settings

    def save(self, folder: Path, end_of_turn_id: int) -> None:
        """Write a Hugging Face folder: safetensors, tokenizer, generation config. Adapters are merged into the copy."""
        model = self._plain
        if model is not self.model:
            import copy

            model = copy.deepcopy(self.model).merge_and_unload()
        model.generation_config = GenerationConfig(
            eos_token_id=end_of_turn_id,
            pad_token_id=end_of_turn_id if self.tokenizer.pad_token_id is None else self.tokenizer.pad_token_id,
        )
        model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    @torch.no_grad()
    def check_exactness(self) -> None:
        """Compare packed rows and the external head with the model's own forward pass on a few tokens.

        On the device where the weights are, and in the precision of autocast where that is on: what it holds for one
        device or precision says nothing of the kernels of another.

        Raises:
            UserError: they differ; the message says which shortcut this architecture does not fit.
        """
        vocabulary = self.head_weight.shape[0]
        probes = [
            TokenizedSequence("probe", tuple((7 * i + 3 * n) % vocabulary for i in range(n)), 1) for n in (5, 3, 9)
        ]
        was_training = self.training
        self.eval()
        try:
            packed, alone = (
                self._probe(make_batch([(p,) for p in probes], token_budget=32, split_examples=True)),
                [self._probe(make_batch([(p,)], token_budget=32, split_examples=True))[0] for p in probes],
            )
            if not all(bool(states.isfinite().all()) for states in alone):
                raise UserError("model: its hidden states are NaN or infinite; give other weights")
            is_close = all(_is_same(a, b, atol=1e-3) for a, b in zip(packed, alone, strict=True))
            _require(is_close and not self._leaks(probes), self)
            ids = torch.tensor([probes[-1].input_ids], device=self.head_weight.device)
            own = self._own_logits(ids)
            ours = self.logits(alone[-1])
        finally:
            self.train(was_training)
        if not _is_same(ours, own, atol=1e-2):
            raise UserError(
                f"model.path: {type(self._plain).__name__} computes its logits in a way that the log-prob kernel lacks"
                f" (largest difference {(own.float() - ours.float()).abs().max().item():.3g}); choose another model"
            )

    @torch.enable_grad()
    def _leaks(self, probes: list[TokenizedSequence]) -> bool:
        """Whether the last sequence's hidden states depend on its neighbours, however little.

        A gradient is exactly zero where nothing flows. The short convolution of a fresh hybrid model changes its
        neighbours by less than bfloat16 rounding, which no comparison of values can tell from noise.
        """
        captured: list[Tensor] = []

        def cut(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            captured.append(output.detach().requires_grad_())
            return captured[0]

        hook = self._plain.get_input_embeddings().register_forward_hook(cut)
        try:
            last = self._probe(make_batch([(p,) for p in probes], token_budget=32, split_examples=True))[-1].float()
        finally:
            hook.remove()
        # Uneven weights: the plain sum of a layer-normalised state is constant, so is the sum of squares.
        score = (last * torch.linspace(0.5, 2.0, last.shape[1], device=last.device).square()).sum()
        (gradient,) = torch.autograd.grad(score, captured[0])
        if self.is_padded:
            return bool(gradient[:-1].any())
        return bool(gradient[:, : -last.shape[0]].any())

    def _probe(self, batch: Any) -> list[Tensor]:
        """Hidden states of each sequence of a one-row batch."""
        (micro,) = batch.micro_batches
        hidden = self.hidden_states(micro.to(self.head_weight.device))
        return list(torch.split(hidden, list(micro.segment_lengths)))

    def _own_logits(self, ids: Tensor) -> Tensor:
        with self.for_generation() as model:
            logits: Tensor = model(input_ids=ids, use_cache=False).logits.squeeze(0)
        return logits

    def logits(self, hidden: Tensor) -> Tensor:
        """(N, V) of hidden states (N, H); for a few tokens at a time, training never builds them."""
        options = self.head_options
        logits = nn.functional.linear(hidden, self.head_weight, options["bias"]) * options["scale"]
        cap = options["softcap"]
        capped: Tensor = logits if cap is None else cap * torch.tanh(logits / cap)
        return capped


def _projects_its_input(name: str, module: nn.Module) -> bool:
    """Whether a module needs what enters it for matrix products alone; a mixture of experts adds up in its dtype."""
    kind = name.rpartition(".")[2]
    parts = (part for part in module.children() if next(part.parameters(), None) is not None)
    return kind == "self_attn" or (kind == "mlp" and all(isinstance(part, nn.Linear) for part in parts))


def _to_autocast_dtype(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Cast what enters a block of projections once; autocast would for each of them, and keep every copy."""
    states = args[0] if args else kwargs.get("hidden_states")
    if states is None or not torch.is_autocast_enabled(states.device.type):
        return None
    lowered = states.to(torch.get_autocast_dtype(states.device.type))
    return ((lowered, *args[1:]), kwargs) if args else (args, kwargs | {"hidden_states": lowered})


def _is_same(ours: Tensor, theirs: Tensor, *, atol: float) -> bool:
    """Whether two ways to the same (n, width) numbers agree, but for rounding; half precision agrees token by token."""
    difference, size = ours.float() - theirs.float(), theirs.float()
    if torch.finfo(ours.dtype).bits > 16:
        return bool((difference.abs() <= 1e-2 * size.abs() + atol).all())
    return bool((difference.norm(dim=-1) <= 0.05 * size.norm(dim=-1) + atol).all())


def _require(packs_exactly: bool, backbone: CausalLM) -> None:
    if not packs_exactly:
        raise UserError(
            f"model.path: {type(backbone._plain).__name__} cannot be packed exactly: a sequence's hidden states change"
            f" with its neighbours in the row; set model.attention={PADDED}"
        )


def load_backbone(
    *,
    path: str | None,
    tokenizer: Any | None = None,
    revision: str | None = None,
    config: Mapping[str, Any] | None = None,
    config_overrides: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    attention: str = PACKED_SDPA,
    gradient_checkpointing: str | bool = False,
    compile: bool = False,
    head_chunk_tokens: int | None = None,
    lora: Mapping[str, Any] | None = None,
) -> CausalLM:
    """Load a model from a hub id or a local folder, or make one from a config.

    Args:
        path: hub id or local folder; None makes a new model from `config`.
        tokenizer: the tokenizer; default: the one at `path`.
        revision: branch, tag or commit of the hub id.
        config: `model_type` and the architecture's fields, for a new model. Its vocabulary is the tokenizer's.
        config_overrides: fields to change in the loaded configuration, such as max_position_embeddings or rope_theta.
        dtype: of the parameters; float32 keeps master weights, `trainer.precision` sets the compute type.
        attention: "packed_sdpa" or "padded" (grids, and transformers' own attention).
        gradient_checkpointing: trade compute for memory: "full" (or True) keeps the input of each layer, "selective"
            the results of attention and matrix products as well, "none" (or False) everything.
        compile: let torch.compile fuse the elementwise work of norms and MLPs; takes a compiler, and a minute.
        head_chunk_tokens: most tokens whose logits exist at a time; None: 1,024 on a CPU, 4,096 on a GPU.
        lora: arguments of `peft.LoraConfig`; None trains all parameters.

    Raises:
        UserError: the folder or hub id cannot be read, a field is unknown, or an optional package is missing.
    """
    torch_dtype = getattr(torch, dtype)
    if path is None:
        if config is None or tokenizer is None:
            raise UserError("model.path=null needs model.config (model_type and sizes) and a tokenizer")
        new = _new_config(config, tokenizer)
        _override(new, config_overrides or {})
        try:
            model = AutoModelForCausalLM.from_config(
                new, dtype=torch_dtype, attn_implementation=_implementation(attention, new)
            )
        except Exception as error:  # sizes that do not fit together fail anywhere in an architecture's code
            raise UserError(f"model.config: {in_short(error)}; choose other sizes or another model_type") from error
    else:
        tokenizer = tokenizer or load_tokenizer(path, revision)
        loaded = from_hub(AutoConfig, path, revision)
        _override(loaded, config_overrides or {})
        model, found = from_hub(
            AutoModelForCausalLM,
            path,
            revision,
            config=loaded,
            dtype=torch_dtype,
            attn_implementation=_implementation(attention, loaded),
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # told below, by name
            output_loading_info=True,
        )
        check_loaded(found, f"model.path={path}")
        check_vocabulary(model, tokenizer, f"model.path={path}")
    if isinstance(gradient_checkpointing, bool):
        gradient_checkpointing = "full" if gradient_checkpointing else "none"
    set_checkpointing(model, gradient_checkpointing)
    if compile:
        compile_layers(model)
    backbone = CausalLM(
        model if lora is None else _with_lora(model, lora),
        tokenizer,
        is_padded=attention == PADDED,
        head_chunk_tokens=head_chunk_tokens,
    )
    try:
        backbone.check_exactness()
    except UserError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UserError(
            f"model: its forward pass fails ({in_short(error)}); do model.config or model.config_overrides hold sizes"
            " that do not fit together?"
        ) from error
    return backbone


def set_checkpointing(model: Any, mode: str) -> None:
    """Choose what a transformers model keeps for its backward pass: "full", "selective" or "none" recomputation."""
    model.gradient_checkpointing_disable()
    if mode == "none":
        return
    options: dict[str, Any] = {"use_reentrant": False}
    if mode == "selective":
        options["context_fn"] = partial(create_selective_checkpoint_contexts, list(_expensive_operators()))
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=options)


def _expensive_operators() -> Iterator[Any]:
    """The operators whose results are worth their memory; some are of other devices or versions of torch."""
    aten, varlen = torch.ops.aten, torch.ops.torch_attn
    names = ("_flash_attention", "_flash_attention_for_cpu", "_efficient_attention", "_cudnn_attention")
    wanted = [(aten, "mm"), (aten, "addmm"), (varlen, "_varlen_attn")]
    for space, name in (*wanted, *((aten, f"_scaled_dot_product{name}") for name in names)):
        if hasattr(space, name):
            yield getattr(space, name).default


def compile_layers(model: Any) -> None:
    """Compile the norms and MLPs of a transformers model in place, once for all lengths of rows."""
    for name, module in model.base_model.named_modules():
        if name.endswith(".mlp") or type(module).__name__.endswith(("RMSNorm", "LayerNorm")):
            module.compile(dynamic=True)


def _implementation(attention: str, config: Any) -> str:
    """The name of an attention in transformers' registry."""
    return _own_attention(config) if attention == PADDED else attention


def _own_attention(config: Any) -> str:
    """The fastest one of transformers that computes what the model means."""
    # SDPA has no soft-capping of scores, and transformers does not say so.
    return "eager" if getattr(config.get_text_config(), "attn_logit_softcapping", None) else "sdpa"


def _new_config(config: Mapping[str, Any], tokenizer: Any) -> Any:
    """The architecture that `model_type` names, with the vocabulary and special tokens of the tokenizer."""
    fields = dict(config)
    model_type = fields.pop("model_type")
    try:
        _check_fields(AutoConfig.for_model(model_type), fields)
        return AutoConfig.for_model(
            model_type,
            **fields,
            vocab_size=vocabulary_size(tokenizer),
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    except UserError:
        raise
    except Exception as error:  # transformers validates fields with exceptions of many kinds
        reason = in_short(error).partition(" Should contain one of")[0].rstrip(".")  # hundreds of names follow
        raise UserError(f"model.config: {reason}; choose other sizes or another model_type") from error


def _check_fields(default: Any, fields: Mapping[str, Any]) -> None:
    """Refuse a misspelt field: transformers would keep it and never read it."""
    elsewhere = ("rope_theta",) if getattr(default, "rope_parameters", None) else ()
    for key in fields:
        if key not in elsewhere and not hasattr(default, key):
            raise UserError(f"model.config.{key}: {type(default).__name__} has no such field")


def _override(config: Any, overrides: Mapping[str, Any]) -> None:
    """Set fields of a configuration; rope_theta lives inside `rope_parameters` since transformers 5."""
    for key, value in overrides.items():
        rope = getattr(config, "rope_parameters", None)
        if key == "rope_theta" and isinstance(rope, dict) and "rope_theta" in rope:
            rope["rope_theta"] = value
        elif hasattr(config, key):
            setattr(config, key, value)
        else:
            raise UserError(f"model.config_overrides.{key}: {type(config).__name__} has no such field")


def _with_lora(model: Any, lora: Mapping[str, Any]) -> Any:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise UserError("model.lora needs the optional package peft: pip install 'redi-lab[peft]'") from error
    model.enable_input_require_grads()  # gradient checkpointing needs a gradient at the embeddings
    try:
        return get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"model.lora: {in_short(error)}; give arguments of peft.LoraConfig") from error
