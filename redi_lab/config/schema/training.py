"""The groups model, optimizer, scheduler and trainer."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PlainValidator, SerializeAsAny, model_validator

from redi_lab.config.schema.base import (
    Count,
    NotNegative,
    Positive,
    Settings,
    Share,
    TargetSettings,
    Text,
    Whole,
    allowed,
    by_target,
    fitting,
)
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


class OptimizerConfig(TargetSettings):
    """Any optimizer of torch, or your own."""

    partial: Literal[True] = Field(alias="_partial_")
    lr: Positive
    max_grad_norm: Positive | None = None


class AdamWConfig(OptimizerConfig, extra="forbid"):
    """AdamW."""

    target: Literal["torch.optim.AdamW"] = Field(alias="_target_")
    betas: list[Annotated[float, Field(ge=0, lt=1)]] = Field(min_length=2, max_length=2)
    eps: Annotated[float, Field(gt=0, lt=1)]
    weight_decay: NotNegative
    fused: bool | None


OPTIMIZERS = by_target(AdamWConfig)
Optimizer = Annotated[SerializeAsAny[OptimizerConfig], fitting(OPTIMIZERS)]


class SchedulerConfig(Settings):
    """Learning-rate schedule."""

    name: Literal["linear", "cosine", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt"]
    warmup_ratio: Share


def _is_share(value: Any) -> bool:
    if isinstance(value, float):
        return 0 <= value <= 1
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_Unchanged = Annotated[float, PlainValidator(lambda value: value)]
"""1 is one batch, 1.0 all of them: neither may become the other."""
_Batches = Annotated[_Unchanged, allowed(_is_share, "a share from 0.0 to 1.0 or a number of batches")]
_Interval = Annotated[
    _Unchanged,
    allowed(lambda value: _is_share(value) and value > 0, "a share of an epoch in (0.0, 1.0] or a number of steps"),
]
_Time = Annotated[str, allowed(lambda text: re.fullmatch(r"\d+:\d\d:\d\d:\d\d", text), "a time DD:HH:MM:SS in quotes")]


class TrainerConfig(Settings):
    """Arguments of pytorch_lightning.Trainer; the lab sets the others itself."""

    accelerator: Literal["auto", "cpu", "gpu", "cuda", "mps"]
    devices: Count
    num_nodes: Count
    strategy: Literal["auto", "ddp", "fsdp2"]
    fsdp_offload: bool
    precision: Literal["32-true", "bf16-mixed", "auto"]
    """Others scale or round away steps of 1e-6."""
    deterministic: Literal[True, False, "warn"]
    benchmark: bool | None
    max_epochs: int | None
    min_epochs: Whole | None
    max_steps: int
    min_steps: Whole | None
    max_time: _Time | None
    limit_train_batches: _Batches | None
    limit_val_batches: _Batches | None
    val_check_interval: _Interval
    check_val_every_n_epoch: Count | None
    log_every_n_steps: Count
    profiler: Literal["simple", "advanced", "pytorch"] | None
    detect_anomaly: bool
    enable_model_summary: bool

    @model_validator(mode="after")
    def _check_strategy(self) -> Self:
        if self.strategy != "auto" and self.devices * self.num_nodes == 1:
            raise UserError(
                f"trainer.strategy={self.strategy}: must be auto on one device; add trainer.devices=2 for several"
            )
        if self.fsdp_offload and self.strategy != "fsdp2":
            raise UserError(
                f"trainer.fsdp_offload=true: must be false with trainer.strategy={self.strategy}; add"
                " trainer.strategy=fsdp2"
            )
        return self

    @model_validator(mode="after")
    def _check_end(self) -> Self:
        """Something must end the training."""
        if self.max_steps != -1 and self.max_steps < 1:
            raise UserError(
                f"trainer.max_steps={self.max_steps}: must be a whole number of at least 1, or -1: max_epochs decides"
            )
        if (self.max_epochs or 0) < 1 and (self.max_steps == -1 or self.max_epochs not in (None, -1)):
            raise UserError(
                f"trainer.max_epochs={self.max_epochs}: must be a whole number of at least 1 (or -1 beside"
                " trainer.max_steps)"
            )
        return self
