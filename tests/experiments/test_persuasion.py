"""The study of persuasion: its commands compose, and its table says what the rows say."""

from __future__ import annotations

import json
from pathlib import Path

from experiments.persuasion.run import ASKED, DIALOGUES, DPO, KINDS, SFT, row, table
from redi_lab.config.compose import load_config


def test_its_commands_compose(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "1", "chosen": "2", "rejected": "3"}))
    arm = load_config("train", [*DPO, f"data.path={tmp_path / 'pairs.jsonl'}", f"init_from={tmp_path}"])
    assert (arm.loss.reference, arm.data.prompt_template) == ("init", "{problem}")
    for overrides in (ASKED, DIALOGUES):
        config = load_config("evaluate", [f"checkpoint={tmp_path}", *overrides])
        assert list(config.eval.conditions) == ["asked", "again"]
    assert config.eval.follow_ups == 6


def test_the_table() -> None:
    score = {"value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "sem": 0.1}
    summary = {
        "benchmarks": {name: {"metrics": {"pass_at_1": score}} for name in ("asked", "again")},
        "changes": {"again": {"right_to_wrong": score, "wrong_to_right": score}},
        "comparisons": {"again": {"difference": score | {"value": 0.0}}},
    }
    rows = {name: {**row(summary), "pairs": 8} for name in (SFT, *KINDS)}
    lines = table(rows)
    assert len(lines) == 2 + 4
    cell = "0.500 (0.400 to 0.600)"
    assert lines[2] == f"| SFT | 8 | {cell} | {cell} | 0.000 (0.400 to 0.600) | {cell} | {cell} |"
