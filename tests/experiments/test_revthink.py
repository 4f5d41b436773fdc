"""The study of backward reasoning: equal tokens by construction, commands that compose, and its tables."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import runner
from experiments.revthink import run as study
from experiments.revthink.run import AGAINST, ARMS, FORWARD, FULL, PAIRS, QUICK, TASKS, comparisons, table
from redi_lab.backbone.hub import load_tokenizer
from redi_lab.cli import main
from redi_lab.config.compose import load_config
from redi_lab.data.examples import encode_examples
from redi_lab.data.readers import TraceFileSource
from redi_lab.data.tokenization import TraceEncoder

Prepared = tuple[Path, dict[str, Any]]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    outputs = tmp_path_factory.mktemp("revthink")

    def in_this_process(folder: Path, outputs: Path, overrides: list[str]) -> dict[str, Any]:
        main([*overrides, *runner.places(outputs, folder)])
        summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
        return summary

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "command", in_this_process)
        return outputs, study.prepare(outputs, QUICK)


def test_both_first_arms_have_as_many_tokens_and_steps(prepared: Prepared) -> None:
    outputs, data = prepared
    encoder = TraceEncoder(load_tokenizer(str(outputs / "tokenizer")))
    rows, tokens = {}, {}
    for arm in (FORWARD, TASKS):
        corpus = TraceFileSource(str(outputs / f"{arm}.jsonl")).load()
        examples = [one for (one,) in encode_examples(corpus, encoder, "demonstrations")]
        rows[arm], tokens[arm] = len(examples), sum(one.completion_length for one in examples)
        assert arm == TASKS or {one.weight for one in examples} == {1.0}
    assert tokens[FORWARD] == pytest.approx(tokens[TASKS], rel=0.01)
    steps = rows[FORWARD] / data["forward_batch_size"], rows[TASKS] / study.BATCH_SIZE
    assert steps[0] == pytest.approx(steps[1], rel=0.05)
    assert {one.problem for one in TraceFileSource(str(outputs / f"{FORWARD}.jsonl")).load().demonstrations} <= {
        one.problem for one in corpus.demonstrations
    }


def test_backward_questions_are_asked_for_in_the_students_words(prepared: Prepared) -> None:
    rows = {row["task"]: row["problem"] for row in study.read_rows(prepared[0] / f"{TASKS}.jsonl")}
    assert rows["backward_question"] == f"{rows['forward']} so"


def test_negatives_of_both_kinds_are_as_many_pairs(prepared: Prepared) -> None:
    outputs, data = prepared
    pairs = {name: TraceFileSource(str(outputs / f"{name}.jsonl")).load().pairs for name, _ in PAIRS.values()}
    assert {len(found) for found in pairs.values()} == {data["pairs"]}
    assert data["pairs"] > 10
    assert {one.error for one in pairs["backward_pairs"]} == {"inconsistent"}
    assert all(" so " in one.problem for one in pairs["backward_pairs"])
    assert not any(" so " in one.problem for one in pairs["forward_pairs"])


@pytest.mark.parametrize("arm", ARMS)
def test_its_trainings_compose(arm: str, prepared: Prepared) -> None:
    outputs, data = prepared
    start = outputs / "runs" / f"{TASKS}_s42" / "checkpoints" / "last"
    start.mkdir(parents=True, exist_ok=True)
    (start / "config.json").write_text("{}")
    config = load_config("train", [*study.overrides_of(arm, 42, outputs, FULL, data), f"name={arm}"])
    assert config.data.prompt_template == "{problem}"
    assert (config.init_from == str(start)) is (arm in PAIRS)
    if arm in PAIRS:
        assert config.loss.alpha == (0.5 if arm.endswith("negatives") else 0)
    else:
        assert (config.model.tokenizer, config.trainer.max_epochs) == ("arithmetic", FULL.epochs)


def test_tables() -> None:
    assert set(AGAINST) | {new for news in AGAINST.values() for new in news} == set(ARMS)
    row = {"pass_at_1": 0.5, "greedy_pass_at_1": 0.6, "haste": 0.2, "backward": 0.1, "steps": 7}
    lines = table({f"{FORWARD}/42": row, f"{FORWARD}/43": {**row, "pass_at_1": 0.7}})
    assert lines[2:] == ["| forward alone | 2 | 7 | 0.600 (0.500 to 0.700) | 0.600 | 0.200 | 0.000 | 0.100 |"]
    found = {"value": -0.1, "ci_low": -0.3, "ci_high": 0.1, "adjusted_p": 0.25, "seeds": 3}
    said = comparisons({"forward_alone against three_tasks": found})
    assert said[2:] == ["| forward alone against three tasks | -0.100 (-0.300 to +0.100) | 0.25 | 3 |"]
