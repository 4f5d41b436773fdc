from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from redi_lab.errors import UserError
from redi_lab.generation.checkpoint import Checkpoint


def without(folder: Path, name: str, key: str) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps({k: v for k, v in content.items() if k != key}))


def test_a_folder_is_read_without_its_weights(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    read = Checkpoint.open(folder)
    assert (read.stops, read.max_positions, read.dtype) == ((22, 23), 64, "float32")


def test_end_tokens_come_from_the_first_that_names_some(checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    (folder / "generation_config.json").unlink()
    assert Checkpoint.open(folder).stops == (22,)
    without(folder, "config.json", "eos_token_id")
    assert Checkpoint.open(folder).stops == (22,)
    without(folder, "tokenizer_config.json", "eos_token")
    with pytest.raises(UserError, match="copy names no end token"):
        Checkpoint.open(folder)


def test_completions_end_with_their_first_end_token(checkpoint: Path) -> None:
    read = Checkpoint.open(checkpoint)
    made = read.completion(3, 1, [5, 6, 23, 21, 22], [-1.0, -2.0, -3.0, -4.0, -5.0])
    assert (made.token_ids, made.text, made.finish_reason) == ((5, 6, 23), "5 6", "stop")
    assert made.token_logps == (-1.0, -2.0, -3.0)
    cut = read.completion(3, 1, [5, 6])
    assert (cut.token_ids, cut.finish_reason, cut.token_logps) == ((5, 6), "length", None)


def test_unusable_folders_are_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="nowhere cannot be loaded"):
        Checkpoint.open(tmp_path / "nowhere")
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    without(folder, "config.json", "dtype")
    with pytest.raises(UserError, match=r"config\.json names no dtype; set engine\.dtype"):
        _ = Checkpoint.open(folder).dtype
