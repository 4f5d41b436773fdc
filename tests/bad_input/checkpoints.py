# ruff: noqa: E501 (a case is a line)
"""Hugging Face folders that are damaged, incomplete, dangerous or not what they say, to train and to evaluate."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tests.bad_input.world import SMALL, Act, Case, World, edit_json

Spoil = Callable[[Path], object]
WEIGHTS = "model.safetensors"
ROW = {"id": "a", "problem": "1+1?", "answer": "2", "generations": [{"text": "2", "correct": True}]}


def train(spoil: Spoil, *arguments: str) -> Act:
    """Train the spoilt folder on one row."""

    def command(world: World) -> list[str]:
        folder, rows = world.copy_model(), world.rows("mine.jsonl", ROW)
        spoil(folder)
        data = ["data=jsonl", f"data.path={rows}", "data.source.num_heldout=0"]
        return [*SMALL, "logger=none", *data, "model=hf", f"model.path={folder}", *arguments]

    return command


def evaluate(spoil: Spoil, *arguments: str) -> Act:
    """Evaluate the spoilt folder on one problem."""

    def command(world: World) -> list[str]:
        folder, problems = world.copy_model(), world.rows("b.jsonl", {"problem": "1+1?", "answer": "2"})
        spoil(folder)
        small = ["eval=jsonl", f"eval.path={problems}", "eval.num_samples=1", "eval.max_new_tokens=4", "logger=none"]
        return ["evaluate", f"checkpoint={folder}", *small, *arguments]

    return command


def truncated(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def empty(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"")


def huge_header(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(b"\xff" * 8 + (folder / WEIGHTS).read_bytes()[8:])


def pickle_in_disguise(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps({"model.embed_tokens.weight": [1.0]}))


def only_pickle(folder: Path) -> None:
    torch.save(load_file(folder / WEIGHTS), folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()


def no_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def without(*names: str) -> Spoil:
    def spoil(folder: Path) -> None:
        kept = {k: v for k, v in load_file(folder / WEIGHTS).items() if not k.startswith(names)}
        save_file(kept, folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


def lost_shards(folder: Path) -> None:
    names = load_file(folder / WEIGHTS).keys()
    (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    shards = {name: f"model-0000{1 + index % 2}-of-00002.safetensors" for index, name in enumerate(names)}
    index = {"metadata": {"total_size": 1}, "weight_map": shards}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def damaged_index(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text('{"weight_map": ')


def indexed(shard: object) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": WEIGHTS, "b": shard}}))

    return spoil


def with_number(number: float) -> Spoil:
    def spoil(folder: Path) -> None:
        weights = load_file(folder / WEIGHTS)
        weights["model.norm.weight"][3] = number
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})

    return spoil


def pipe(name: str) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return spoil


def config(**changes: object) -> Spoil:
    return lambda folder: edit_json(folder / "config.json", **changes)


def config_text(text: str | bytes) -> Spoil:
    return lambda folder: (folder / "config.json").write_bytes(text.encode() if isinstance(text, str) else text)


def no_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def an_adapter(folder: Path) -> None:
    no_config(folder)
    (folder / WEIGHTS).rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "x"}))


_WITHOUT_NORM, _WITHOUT_LAYERS = without("model.norm"), without("model.layers")
_BOTH: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "truncated safetensors": (truncated, ("/model", "safetensors")),
    "pytorch_model.bin alone": (only_pickle, ("/model", "*.safetensors")),
    "a missing tensor": (_WITHOUT_NORM, ("/model", "model.norm.weight")),
    "weights with NaN": (with_number(float("nan")), ("/model", "model.norm.weight", "NaN")),
    "no config.json": (no_config, ("/model", "config.json")),
    "an architecture that brings code": (config(model_type="mine", auto_map={"AutoConfig": "mine.Config"}), ("/model",)),
    "another width": (config(hidden_size=32, head_dim=8), ("/model", "shape", "config.json")),
    "empty safetensors": (empty, ("/model", "safetensors")),
    "a header that cannot be": (huge_header, ("/model", "safetensors")),
    "a pickle disguised as safetensors": (pickle_in_disguise, ("/model", "safetensors")),
    "no weights": (no_weights, ("/model", "*.safetensors")),
    "tensors of another model": (_WITHOUT_LAYERS, ("/model", "model.layers.")),
    "an index that names lost shards": (lost_shards, ("/model", "model-00002-of-00002.safetensors")),
    "an index that is not JSON": (damaged_index, ("/model", "model.safetensors.index.json")),
    "an index with a list in it": (indexed([WEIGHTS]), ("/model", "index.json", "weight_map")),
    "weights with infinity": (with_number(float("inf")), ("/model", "model.norm.weight", "infinity")),
    "weights that are a pipe": (pipe(WEIGHTS), ("/model", "model.safetensors")),
    "a tokenizer that is a pipe": (pipe("tokenizer.json"), ("/model", "tokenizer.json")),
    "a config of nested brackets": (config_text("[" * 10**5), ("/model", "config.json")),
    "an adapter alone": (an_adapter, ("/model", "adapter")),
    "a config that is not JSON": (config_text("{"), ("/model", "config.json")),
    "a config that is a list": (config_text("[]"), ("/model", "config")),
    "a config that is not UTF-8": (config_text(b"\xff\xfe\x00"), ("/model", "config")),
    "an empty config": (config_text("{}"), ("/model", "model_type")),
    "an unknown architecture": (config(model_type="nobody"), ("/model", "nobody")),
    "a model that writes no text": (config(model_type="vit", architectures=["ViTModel"]), ("/model",)),
    "a width in words": (config(hidden_size="wide"), ("/model",)),
    "more layers than weights": (config(num_hidden_layers=3, layer_types=["full_attention"] * 3), ("/model", "model.layers.1")),
    "layers below none": (config(num_hidden_layers=-1), ("/model",)),
    "a vocabulary below the tokenizer's": (config(vocab_size=10), ("/model", "shape")),
}  # fmt: skip


def nothing(folder: Path) -> None:
    """The folder is sound."""


_NEW = (*SMALL, "logger=none", "data.source.num_problems=9", "data.source.num_heldout=0")
_TRAIN_ALONE = [
    Case("a field that the architecture does not have", train(nothing, "+model.config_overrides.foo=1"), ("model.config_overrides.foo",)),
    Case("a width changed by the configuration", train(nothing, "+model.config_overrides.hidden_size=32"), ("/model", "shape")),
    Case("LoRA of rank 0", train(nothing, "model/lora=default", "model.lora.rank=0"), ("model.lora.rank=0",)),
    Case("LoRA with an unknown argument", train(nothing, "model/lora=default", "model.lora.r=1"), ("model.lora.r", "rank")),
    Case("LoRA on layers that are not there", train(nothing, "model/lora=default", "model.lora.targets=[nowhere]"), ("model.lora.targets=nowhere", "q_proj")),
    Case("LoRA on the head", train(nothing, "model/lora=default", "model.lora.targets=[q_proj,lm_head]"), ("model.lora.targets=lm_head", "q_proj")),
    Case("positions too few for the data", train(config(max_position_embeddings=4)), ("4 positions",)),
    Case("a reference that is damaged", lambda w: [*(train(truncated)(w) or ())[:-2], "loss=dpo", f"model.path={w.model}", f"loss.reference={w.folder / 'model'}", "model=hf"], ("/model",)),
    Case("a start without weights", lambda w: [*(train(no_weights)(w) or ())[:-2], f"init_from={w.folder / 'model'}"], ("/model", "*.safetensors")),
    Case("an architecture that nobody knows", lambda w: [*_NEW, "model.config.model_type=nobody"], ("model.config", "nobody")),
    Case("heads that do not divide the width", lambda w: [*_NEW, "model.config.num_key_value_heads=2"], ("model", "heads")),
    Case("a field that a new model does not have", lambda w: [*_NEW, "+model.config.foo=1"], ("model.config.foo",)),
]  # fmt: skip
_EVALUATE_ALONE = [
    Case("no room for an answer", evaluate(config(max_position_embeddings=4)), ("4 positions",)),
    Case("a rival that is damaged", lambda w: [*(evaluate(truncated)(w) or ()), f"checkpoint={w.model}", f"sequential.better_than={w.folder / 'model'}"], ("sequential.better_than=", "model.safetensors")),
]  # fmt: skip

KINDS = {
    "a model to train": [Case(n, train(s), parts) for n, (s, parts) in _BOTH.items()] + _TRAIN_ALONE,
    "a model to evaluate": [Case(n, evaluate(s), parts) for n, (s, parts) in list(_BOTH.items())[:7]] + _EVALUATE_ALONE,
}
