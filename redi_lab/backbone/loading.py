"""Makes the policy: a checkpoint or a new model, its configuration, adapters, and what it recomputes or compiles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch.utils.checkpoint import create_selective_checkpoint_contexts
from transformers import AutoConfig, AutoModelForCausalLM

from redi_lab.backbone.adapters import Adapters
from redi_lab.backbone.attention import PACKED_SDPA, PADDED, own_attention
from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.exactness import check_exactness
from redi_lab.backbone.hub import from_hub, load_tokenizer
from redi_lab.backbone.weights import check_loaded, check_vocabulary, vocabulary_size
from redi_lab.errors import UserError, in_short


def load_backbone(
    *,
    path: str | None,
    tokenizer: Any | None = None,
    revision: str | None = None,
    config: Mapping[str, Any] | None = None,
    config_overrides: Mapping[str, Any] | None = None,
    dtype: str = "float32",
    attention: str = PACKED_SDPA,
    gradient_checkpointing: str | bool = "none",
    compile: bool = False,
    head_chunk_tokens: int | None = None,
    adapters: Adapters | None = None,
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
        gradient_checkpointing: see `set_checkpointing`.
        compile: see `compile_layers`.
        head_chunk_tokens: see `CausalLM`.
        adapters: what to train; None trains all parameters.

    Raises:
        UserError: the folder or hub id cannot be read, a field or a layer to adapt is unknown, or the architecture
            cannot be trained exactly (`check_exactness`).
    """
    if path is not None:
        tokenizer = tokenizer or load_tokenizer(path, revision)
    settings = model_config(path, tokenizer, revision, config, config_overrides)
    options = {
        "dtype": getattr(torch, dtype),
        "attn_implementation": own_attention(settings) if attention == PADDED else attention,
    }
    load = partial(_new, settings) if path is None else partial(_loaded, path, revision, tokenizer, settings)
    loading_options = {} if adapters is None else adapters.loading_options()
    model = load(options | loading_options)
    set_checkpointing(model, gradient_checkpointing)
    if compile:
        compile_layers(model)
    backbone = CausalLM(
        model if adapters is None else adapters.add_to(model),
        tokenizer,
        load_unquantised=partial(load, options) if loading_options else None,
        is_padded=attention == PADDED,
        head_chunk_tokens=head_chunk_tokens,
    )
    try:
        check_exactness(backbone)
    except UserError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise UserError(
            f"model: its forward pass fails ({in_short(error)}); do model.config or model.config_overrides hold sizes"
            " that do not fit together?"
        ) from error
    return backbone


def model_config(
    path: str | None,
    tokenizer: Any | None,
    revision: str | None,
    config: Mapping[str, Any] | None,
    config_overrides: Mapping[str, Any] | None,
) -> Any:
    """The configuration of the model that `load_backbone` makes of the same arguments; no weights are needed.

    Raises:
        UserError: as `load_backbone`.
    """
    if path is not None:
        settings = from_hub(AutoConfig, path, revision)
    elif config is None or tokenizer is None:
        raise UserError("model.path=null needs model.config (model_type and sizes) and a tokenizer")
    else:
        settings = _new_config(config, tokenizer)
    _override(settings, config_overrides or {})
    return settings


def _new(settings: Any, options: dict[str, Any]) -> Any:
    try:
        return AutoModelForCausalLM.from_config(settings, **options)
    except Exception as error:  # sizes that do not fit together fail anywhere in an architecture's code
        raise UserError(f"model.config: {in_short(error)}; choose other sizes or another model_type") from error


def _loaded(path: str, revision: str | None, tokenizer: Any, settings: Any, options: dict[str, Any]) -> Any:
    model, found = from_hub(
        AutoModelForCausalLM,
        path,
        revision,
        config=settings,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # reported below, by name
        output_loading_info=True,
        **options,
    )
    check_loaded(found, f"model.path={path}")
    check_vocabulary(model, tokenizer, f"model.path={path}")
    return model


def set_checkpointing(model: Any, mode: str | bool) -> None:
    """Choose what a transformers model keeps for its backward pass, trading compute for memory.

    Args:
        model: changed in place.
        mode: "full" (or True) keeps the input of each layer, "selective" the results of attention and matrix products
            as well, "none" (or False) everything.
    """
    model.gradient_checkpointing_disable()
    if mode in ("none", False):
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
    """Let torch.compile fuse the elementwise work of norms and MLPs, once for all lengths of rows, in place.

    It takes a C++ compiler, and a minute before the first step.
    """
    for name, module in model.base_model.named_modules():
        if name.endswith(".mlp") or type(module).__name__.endswith(("RMSNorm", "LayerNorm")):
            module.compile(dynamic=True)


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
