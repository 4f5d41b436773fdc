"""Paths of any name on the command line, through Hydra's own grammar."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from redi_lab.config.compose import load_config
from redi_lab.config.overrides import quote_paths, quoted
from redi_lab.verbs.sweep.space import as_overrides

NAMES = ["träces 1.jsonl", "[a]/b (1), c.jsonl", "it's.jsonl", "a=b.jsonl", "1e3", "null.jsonl", "{x}", "back\\slash\\"]


@pytest.mark.parametrize("text", [*NAMES, "\\'", "a\\\\'b", "", " "])
def test_quoted_text_is_read_as_it_was(text: str) -> None:
    assert OverridesParser.create().parse_override(f"key={quoted(text)}").value() == text


def test_a_path_of_any_name_is_composed_as_it_is(tmp_path: Path) -> None:
    name = "[träces]/it's = {b}, (1) \\.jsonl"
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text('{"problem": "1+1?", "answer": "2", "generations": []}\n')
    outputs = f"paths.outputs_dir={tmp_path / 'öut [put]'}"
    config = load_config("train", ["data=jsonl", f"data.path={file}", outputs])
    assert config.data.path == str(file)
    assert config.paths.cache_dir == f"{tmp_path}/öut [put]/cache"


@pytest.mark.parametrize("name", NAMES)
def test_a_path_of_any_name_is_one_override(name: str) -> None:
    for override in [*quote_paths([f"data.path=/a/{name}"]), *as_overrides({"data.path": f"/a/{name}"})]:
        if "," not in name or override.endswith("'"):
            assert OverridesParser.create().parse_override(override).value() == f"/a/{name}"


def test_what_is_no_path_or_several_is_left_to_hydra() -> None:
    left = [
        "data.path=null",
        "data.path='a b'",
        "data.path=a,b",
        "data.path=choice(a,b)",
        "loss.alpha=0.5",
        "data=jsonl",
    ]
    assert quote_paths(left) == left


def test_a_file_whose_name_looks_like_several_is_one(tmp_path: Path) -> None:
    file = tmp_path / "a,b"
    file.touch()
    assert quote_paths([f"data.path={file}"]) == [f"data.path='{file}'"]
