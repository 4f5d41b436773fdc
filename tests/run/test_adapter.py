"""Adapters put back onto their model: the same weights as training merged, or one line that says why not."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from redi_lab.backbone.loading import load_backbone
from redi_lab.callbacks.checkpoints import ExportCheckpoints
from redi_lab.cli import main
from redi_lab.data.chats import find_end_of_turn
from tests.backbone.conftest import LORA, trained_adapters
from tests.conftest import CHAT_TEMPLATE

RECORD = {"prompt_template": "Solve {problem}", "thinking_prefix": "", "max_new_tokens": 5}


@pytest.fixture
def exported(qwen_folder: Path, tmp_path: Path) -> Path:
    """What a training of adapters on `qwen_folder` leaves as its last checkpoint."""
    backbone = trained_adapters(load_backbone(path=str(qwen_folder), adapters=LORA))
    backbone.tokenizer.chat_template = CHAT_TEMPLATE
    end, notes = find_end_of_turn(backbone.tokenizer), {"redi_lab.json": RECORD}
    export = ExportCheckpoints(tmp_path, end, None, None, "min", notes)
    trainer: Any = SimpleNamespace(is_global_zero=True, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    export._export(trainer, SimpleNamespace(backbone=backbone), "last")
    return tmp_path / "last"


def test_an_adapter_alone_is_merged_into_what_training_exported(exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "merged"
    (exported / "adapter" / "README.md").write_text("---\nlibrary_name: peft\n---\n\nAn adapter (peft) for a model.\n")
    main(["merge", f"checkpoint={exported / 'adapter'}", f"to={target}"])
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (target, exported))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    for name in ("generation_config.json", "redi_lab.json", "chat_template.jinja", "tokenizer.json"):
        assert (target / name).read_bytes() == (exported / name).read_bytes()
    assert not list(target.glob("adapter*"))
    assert (target / "README.md").read_text() == "---\nlibrary_name: transformers\n---\n\nWeights of a model.\n"


def test_an_adapter_answers_as_the_merged_folder_does(exported: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = []
    for folder in (exported, exported / "adapter"):
        main(["chat", f"checkpoint={folder}", "prompt=3 + 4", "temperature=1"])
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1] != "\n"


def test_a_base_that_was_moved_is_named(
    exported: Path, qwen_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edit(base_model_name_or_path="/nowhere/base")(exported / "adapter")
    command = ["merge", f"checkpoint={exported / 'adapter'}", f"to={tmp_path / 'merged'}"]
    with pytest.raises(SystemExit):
        main(command)
    assert "base=/nowhere/base: the model under the adapter is not there; give base=" in capsys.readouterr().err
    main([*command, f"base={qwen_folder}"])
    assert (tmp_path / "merged" / "model.safetensors").exists()


def edit(**changes: Any) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def only_a_pickle(folder: Path) -> None:
    (folder / "adapter_model.safetensors").rename(folder / "other.safetensors")
    (folder / "adapter_model.bin").write_bytes(pickle.dumps([1]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "adapter_config.json cannot be read"),
        (edit(peft_type="IA3"), "holds an adapter of type IA3; only plain LORA is merged"),
        (edit(megatron_config={"a": 1}, megatron_core="mine"), "only plain LORA is merged"),
        (only_a_pickle, "adapter_model.safetensors is missing"),
        (edit(r=3), "does not fit base="),
        (edit(target_modules=["q_proj", "v_proj"]), "lora_A.weight is in one of both alone"),
        (edit(target_modules=["lm_head"]), "is in one of both alone"),
        (lambda folder: (folder / "adapter_model.safetensors").write_bytes(b"x"), "does not fit base="),
    ],
)
def test_what_cannot_be_merged_leaves_nothing(
    spoil: Callable[[Path], object], message: str, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(exported / "adapter")
    with pytest.raises(SystemExit) as ended:
        main(["merge", f"checkpoint={exported / 'adapter'}", f"to={tmp_path / 'merged'}"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "merged").exists()


def test_merge_wants_an_adapter_and_a_new_folder(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(exported / "adapter", tmp_path / "there")
    for words, message in (
        ([f"checkpoint={exported}", f"to={tmp_path / 'merged'}"], "a whole model and no adapter"),
        ([f"checkpoint={exported / 'adapter'}", f"to={tmp_path / 'there'}"], "exists already; name a new folder"),
        ([f"checkpoint={exported / 'adapter'}"], "merge takes an adapter and a new folder"),
    ):
        with pytest.raises(SystemExit):
            main(["merge", *words])
        assert message in capsys.readouterr().err
