"""An adapter's folder as peft writes it, put back onto the model that it was trained on.

base = base_of(folder, None)  # checks what can be checked before torch is imported
model, tokenizer, end_of_turn = merged(folder, base)
"""

from __future__ import annotations

import json
import warnings
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from redi_lab.errors import UserError, in_short
from redi_lab.hub import is_hub_id

ADAPTER = "adapter_config.json"


def find_checkpoint(path: str) -> Path:
    """The folder of a model or an adapter: that of the path, or the last checkpoint of a training's results folder.

    Raises:
        UserError: there is none, or it has no weights in safetensors.
    """
    places = (Path(path), Path(path) / "checkpoints" / "last") if path else ()
    folder = next((p for p in places if (p / "config.json").is_file() or (p / ADAPTER).is_file()), None)
    if folder is None:
        raise UserError(
            f"checkpoint={path}: neither a Hugging Face folder (config.json), an adapter ({ADAPTER}) nor the results"
            " folder of a training (checkpoints/last)"
        )
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"checkpoint={path}: *.safetensors is missing; give a complete folder")
    return folder.absolute()


def base_of(folder: Path, base: str | None) -> str:
    """Folder or hub id of the model that an adapter was trained on: `base`, else what the adapter says.

    Raises:
        UserError: peft is not installed, the adapter is no plain LoRA, or its model is not there.
    """
    place = f"checkpoint={folder}"
    if find_spec("peft") is None:
        raise UserError(f"{place}: an adapter needs peft: pip install 'redi-lab[peft]'")
    try:
        settings = json.loads((folder / ADAPTER).read_text(encoding="utf-8"))
        kind, found = settings["peft_type"], base or settings["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{place}: {ADAPTER} cannot be read ({in_short(error)}); copy the folder again") from error
    if kind != "LORA" or settings.get("megatron_config"):  # which has peft import a module of the folder's choice
        raise UserError(f"{place}: holds an adapter of type {kind}; only plain LORA is merged")
    if not (folder / "adapter_model.safetensors").is_file():
        raise UserError(f"{place}: adapter_model.safetensors is missing; save the adapter as safetensors")
    if not (isinstance(found, str) and ((Path(found) / "config.json").is_file() or is_hub_id(found))):
        raise UserError(f"base={found}: the model under the adapter is not there; give base=FOLDER_OR_HUB_ID")
    return found


def merged(folder: Path, base: str) -> tuple[Any, Any, int]:
    """The base model with the adapter merged into its weights, a tokenizer, and the token that ends a turn.

    Raises:
        UserError: one of both cannot be loaded, or they do not fit together.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open
    from transformers import AutoModelForCausalLM

    from redi_lab.backbone.hub import from_hub, load_tokenizer
    from redi_lab.backbone.weights import check_folder, check_loaded, check_vocabulary
    from redi_lab.data.chats import find_end_of_turn

    if Path(base).is_dir():
        check_folder(Path(base), "base")
    tokenizer = load_tokenizer(str(folder) if (folder / "tokenizer_config.json").is_file() else base, key="base")
    reported = {"ignore_mismatched_sizes": True, "output_loading_info": True}  # by name, below
    model, found = from_hub(
        AutoModelForCausalLM, base, None, key="base", dtype="auto", use_safetensors=True, **reported
    )
    check_loaded(found, f"base={base}")
    check_vocabulary(model, tokenizer, f"base={base}")
    try:
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # said below, with superfluous ones
            adapted = PeftModel.from_pretrained(model, str(folder), local_files_only=True)
            if differing := set(get_peft_model_state_dict(adapted, save_embedding_layers=False)) ^ set(file.keys()):
                raise ValueError(f"{min(differing)} is in one of both alone")
    except Exception as error:  # peft raises what torch and safetensors raise
        raise UserError(f"checkpoint={folder}: does not fit base={base}: {in_short(error)}; give its own") from error
    return adapted.merge_and_unload().eval(), tokenizer, find_end_of_turn(tokenizer)
