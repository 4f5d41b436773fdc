"""Low-rank adapters (LoRA, arXiv 2106.09685) on a frozen model, which may be kept in 4 bits (QLoRA, 2305.14314)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import nn
from transformers import BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from redi_lab.config.schema.base import listed
from redi_lab.errors import UserError, in_short


@final
@dataclass(frozen=True)
class Adapters:
    """What is trained in place of all parameters; it needs peft, and bitsandbytes where it quantises.

    Attributes:
        rank: of each adapter.
        alpha: updates count alpha / rank times.
        dropout: share of an adapter's inputs that training leaves out.
        targets: names of linear layers, or "all-linear": all but the LM head.
        quantization: "nf4" keeps the frozen linear layers in 4 bits, their scales in 8; None leaves them as they are.
    """

    rank: int
    alpha: float
    dropout: float
    targets: str | Sequence[str]
    quantization: str | None

    def loading_options(self) -> dict[str, Any]:
        """What `from_pretrained` needs to quantise a model."""
        if self.quantization is None:
            return {}
        config = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type=self.quantization, bnb_4bit_use_double_quant=True
        )
        return {"quantization_config": config, "device_map": {"": "cpu"}}  # else on the first GPU, whichever the rank's

    def add_to(self, model: Any) -> Any:
        """The peft model around a transformers model, which is changed in place: adapters alone can be trained.

        Raises:
            UserError: the model has no layer of one of the names.
        """
        from peft import LoraConfig, get_peft_model

        layers = [f".{name}" for name, part in model.base_model.named_modules() if isinstance(part, nn.Linear | Conv1D)]
        for wanted in () if isinstance(self.targets, str) else self.targets:
            if not any(name.endswith(f".{wanted}") for name in layers):  # peft passes it over if it finds the others
                names = sorted({name.rpartition(".")[2] for name in layers})
                raise UserError(f"model.lora.targets={wanted}: no such linear layer; choose {listed(names, wanted)}")
        if self.quantization is not None:
            _let_autocast_decide(model)
        model.enable_input_require_grads()  # gradient checkpointing needs a gradient at the embeddings
        settings = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.rank,
            lora_alpha=self.alpha,
            lora_dropout=self.dropout,
            target_modules=self.targets if isinstance(self.targets, str) else list(self.targets),
        )
        try:
            adapted = get_peft_model(model, settings)
        except (ValueError, TypeError) as error:
            raise UserError(f"model.lora: {in_short(error)}; choose other targets") from error
        settings.target_modules = sorted(settings.target_modules)  # peft's set is saved in the order of its hashes
        return adapted


def merge(model: Any, load_base: Callable[[], Any] | None) -> Any:
    """A copy of a peft model's transformers model with the adapters merged into its weights.

    Args:
        model: left as it is.
        load_base: gives the weights to merge into; None: those that the model has.
    """
    from peft import get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict

    if load_base is None:
        return copy.deepcopy(model).merge_and_unload()
    merged = get_peft_model(load_base(), copy.deepcopy(model.active_peft_config))
    set_peft_model_state_dict(merged, get_peft_model_state_dict(model, save_embedding_layers=False))
    return merged.merge_and_unload()


def _let_autocast_decide(model: nn.Module) -> None:
    """Compute in autocast's dtype where it is on, else in that of what enters, as unquantised layers do.

    Left to themselves, 4-bit layers keep to one dtype, and on some CPUs change their storage when they are evaluated,
    which no longer fits once they are moved to a GPU.
    """
    from bitsandbytes.nn import Linear4bit

    def prepare(layer: Any, args: tuple[torch.Tensor, ...]) -> None:
        device = args[0].device.type
        is_lowered = torch.is_autocast_enabled(device)
        layer.compute_dtype = torch.get_autocast_dtype(device) if is_lowered else args[0].dtype

    for layer in model.modules():
        if isinstance(layer, Linear4bit):
            layer.support_avx512bf16_for_cpu = False
            layer.register_forward_pre_hook(prepare)
