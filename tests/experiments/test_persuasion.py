"""The study of persuasion: its commands compose, and its table says what the rows say."""

from __future__ import annotations

import json
from pathlib import Path

from experiments.persuasion.run import (
    ASKED,
    DIALOGUES,
    DPO,
    KINDS,
    NUM_DIALOGUES,
    SECOND,
    TURNS,
    row,
    table,
    write_second_answers,
)
from redi_lab.config.compose import load_config
from redi_lab.data.readers import TraceFileSource


def test_its_commands_compose(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "1", "chosen": "2", "rejected": "3"}))
    arm = load_config("train", [*DPO, f"data.path={tmp_path / 'pairs.jsonl'}", f"init_from={tmp_path}"])
    assert (arm.loss.reference, arm.data.prompt_template) == ("init", "{problem}")
    second = load_config("train", [*SECOND, f"data.path={tmp_path / 'pairs.jsonl'}", f"init_from={tmp_path}"])
    assert (second.optimizer.lr, second.trainer.max_epochs) == (1e-3, 2)
    for overrides in (ASKED, DIALOGUES):
        config = load_config("evaluate", [f"checkpoint={tmp_path}", *overrides])
        assert list(config.eval.conditions) == ["asked", "again"]
    assert config.eval.follow_ups == 6


def test_second_answers_are_read_as_dialogues_and_single_answers(tmp_path: Path) -> None:
    write_second_answers(tmp_path / "rows.jsonl")
    rows = [json.loads(line)["prompt"] for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert len(rows) == 2 * NUM_DIALOGUES
    corpus = TraceFileSource(str(tmp_path / "rows.jsonl")).load()
    read = [list(getattr(one.problem, "turns", (one.problem,))) for one in corpus.demonstrations]
    texts = [[turn["content"] for turn in prompt] if isinstance(prompt, list) else [prompt] for prompt in rows]
    assert read == [list(one) for one in dict.fromkeys(map(tuple, texts))]  # a short problem may come twice


def test_the_table() -> None:
    score = {"value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "sem": 0.1}
    summary = {
        "benchmarks": {name: {"metrics": {"pass_at_1": score}} for name in ("asked", "again")},
        "changes": {"again": {"right_to_wrong": score, "wrong_to_right": score}},
        "comparisons": {"again": {"comparison": {"difference": score | {"value": 0.0}}}},
    }
    rows = {name: {**row(summary), "pairs": 8} for name in (TURNS, *KINDS)}
    lines = table(rows)
    assert len(lines) == 2 + 4
    cell = "0.500 (0.400 to 0.600)"
    assert lines[2] == f"| {TURNS} | 8 | {cell} | {cell} | 0.000 (0.400 to 0.600) | {cell} | {cell} |"
