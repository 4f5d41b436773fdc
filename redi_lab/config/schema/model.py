"""The model group: the policy before its first stage."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from redi_lab.config.schema.base import Count, Positive, Settings, Text, allowed
from redi_lab.errors import UserError


class NewModel(Settings, extra="allow"):
    """A model to make from scratch; further keys are fields of the architecture's configuration in transformers."""

    model_type: Text
    hidden_size: Count | None = None
    intermediate_size: Count | None = None
    max_position_embeddings: Count | None = None
    num_attention_heads: Count | None = None
    num_hidden_layers: Count | None = None
    num_key_value_heads: Count | None = None


def _are_targets(value: Any) -> bool:
    return value == "all-linear" or (isinstance(value, list) and value != [] and all(isinstance(v, str) for v in value))


class LoraConfig(Settings):
    """The group model/lora: low-rank adapters on a frozen model."""

    rank: Annotated[int, Field(ge=1, le=1024)]
    alpha: Positive
    dropout: Annotated[float, Field(ge=0, lt=1)]
    targets: Annotated[Any, allowed(_are_targets, "all-linear or a list of names, such as [q_proj,v_proj]")]
    quantization: Literal["nf4"] | None


class ModelConfig(Settings):
    """A pretrained model, or the sizes of a new one."""

    path: Text | None
    tokenizer: Text | None
    vocab_size: Annotated[int, Field(ge=257)] | None
    chat_template: Text | None
    config: NewModel | None
    config_overrides: dict[str, Any]
    revision: Text | None
    dtype: Literal["float32", "bfloat16", "float16"]
    attention: Literal["packed_sdpa", "padded"]
    gradient_checkpointing: Literal["full", "selective", "none"]
    compile: bool
    head_chunk_tokens: Count | None
    lora: LoraConfig | None

    @model_validator(mode="after")
    def _check_weights(self) -> Self:
        if self.path is None and self.config is None:
            raise UserError("model.path=null needs model.config with model_type and sizes; or give model.path=FOLDER")
        if self.path is None and self.tokenizer is None:
            raise UserError("model.tokenizer=null: a new model needs one; choose arithmetic, bpe, or FOLDER_OR_HUB_ID")
        if self.dtype != "float32" and self.lora is None:
            raise UserError(
                f"model.dtype={self.dtype}: small steps would be rounded away; keep float32 weights and compute in"
                " bfloat16 with trainer.precision=bf16-mixed (model/lora=default allows it, adapters stay in float32)"
            )
        return self
