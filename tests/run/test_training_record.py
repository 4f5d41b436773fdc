"""How a checkpoint was trained to be asked travels in its folder; nothing of the embedded task stands in for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig

from redi_lab.config.compose import load_config
from redi_lab.errors import UserError
from redi_lab.run.training_record import (
    DEFAULT_NEW_TOKENS,
    RECORD_FILE,
    TrainingRecord,
    read_record,
    settle_protocol,
)

RECORD = TrainingRecord(
    prompt_template="Q: {problem}\n",
    thinking_prefix="<think>",
    max_new_tokens=384,
    data="/traces.jsonl",
    base_model="/base",
)


def config_of(tmp_path: Path, *overrides: str) -> DictConfig:
    (tmp_path / "config.json").write_text("{}")
    return load_config("evaluate", [f"checkpoint={tmp_path}", *overrides])


def asked(config: DictConfig) -> tuple[str, str, int]:
    return config.eval.prompt_template, config.eval.thinking_prefix, config.eval.max_new_tokens


def test_a_record_survives_the_folder(tmp_path: Path) -> None:
    assert read_record(tmp_path) is None
    (tmp_path / RECORD_FILE).write_text(json.dumps(RECORD.model_dump()))
    assert read_record(tmp_path) == RECORD


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "\xff",
        "{}",
        json.dumps(RECORD.model_dump() | {"more": 1}),
        json.dumps(RECORD.model_dump() | {"prompt_template": "no place"}),
        json.dumps(RECORD.model_dump() | {"max_new_tokens": 0}),
        json.dumps(RECORD.model_dump() | {"max_new_tokens": True}),
        json.dumps(RECORD.model_dump() | {"thinking_prefix": None}),
        json.dumps(RECORD.model_dump() | {"base_model": 3}),
    ],
)
def test_a_damaged_record_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / RECORD_FILE).write_text(content, encoding="latin-1")
    with pytest.raises(UserError, match=RECORD_FILE):
        read_record(tmp_path)


def test_an_evaluation_asks_as_training_did(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert settle_protocol(config, tmp_path, RECORD, uses_data=False) is None
    assert asked(config) == ("Q: {problem}\n", "<think>", 384)


def test_the_command_line_and_the_protocol_come_first(tmp_path: Path) -> None:
    config = config_of(tmp_path, "eval.max_new_tokens=7")
    settle_protocol(config, tmp_path, RECORD, uses_data=False)
    assert asked(config) == ("Q: {problem}\n", "<think>", 7)
    paper = config_of(tmp_path, "protocol=paper")
    before = asked(paper)
    assert settle_protocol(paper, tmp_path, RECORD, uses_data=False) is None
    assert asked(paper) == before


def test_without_a_record_the_default_is_said_and_is_not_the_toys(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    note = settle_protocol(config, tmp_path, None, uses_data=False)
    assert asked(config) == ("{problem}", "", DEFAULT_NEW_TOKENS)
    assert config.eval.fit_context
    assert note is not None
    assert f"eval.max_new_tokens={DEFAULT_NEW_TOKENS}" in note
    chosen = config_of(tmp_path, "eval.max_new_tokens=7")
    settle_protocol(chosen, tmp_path, None, uses_data=False)
    assert not chosen.eval.fit_context  # what was asked for is not lowered in silence


def test_without_a_record_problems_of_a_data_group_are_put_as_it_says(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.touch()
    config = config_of(tmp_path, "data=jsonl", f"data.path={rows}")
    assert settle_protocol(config, tmp_path, None, uses_data=True) is None
    assert asked(config) == ("{problem}\n", "", 384)


def test_problems_of_the_toy_are_refused_where_training_was_on_others(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data=jsonl data\.path=/traces\.jsonl"):
        settle_protocol(config_of(tmp_path), tmp_path, RECORD, uses_data=True)


def test_a_prompt_that_held_a_variable_has_to_be_given_again(tmp_path: Path) -> None:
    hidden = RECORD.model_copy(update={"prompt_template": "{problem} ${oc.env:MY_PHRASE}"})
    with pytest.raises(UserError, match=r"redi_lab\.json: prompt_template .*eval\.prompt_template=TEXT"):
        settle_protocol(config_of(tmp_path, "eval=gsm8k", "protocol=as_trained"), tmp_path, hidden, uses_data=False)
    config = config_of(tmp_path, "eval=gsm8k", "protocol=as_trained", "eval.prompt_template='{problem}?'")
    settle_protocol(config, tmp_path, hidden, uses_data=False)
    assert asked(config) == ("{problem}?", "<think>", 384)
