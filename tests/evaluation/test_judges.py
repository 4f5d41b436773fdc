"""Judges of whether an answer finds fault with its question."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from redi_lab.evaluation.benchmarks import EvalProblem
from redi_lab.evaluation.judges import QUESTION, ModelJudge, WordJudge, judge_error
from tests.evaluation.scripted_engine import ScriptedEngine

PROBLEM = EvalProblem("1", "x is 5 and x is 7. What is x?", ("5",))


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("These statements contradict each other.", "right"),
        ("x cannot both be 5 and 7", "right"),
        ("\\boxed { ? }", "right"),
        ("There is no contradiction: x is 5.", "wrong"),
        ("I see no real conflict. \\boxed{5}", "wrong"),
        ("There is no contradiction in x, but y is inconsistent.", "right"),
        ("\\boxed{5}", "wrong"),
        (" ", "unknown"),
    ],
)
def test_words(text: str, verdict: str) -> None:
    [grade] = WordJudge().grade_all([(text, PROBLEM)])
    assert grade.verdict == verdict


def test_the_error_of_a_judge_is_counted_by_hand(tmp_path: Path) -> None:
    """Of two that find fault one is missed; of two that do not one is invented; one of five says nothing."""
    answers = {"it contradicts itself": True, "odd": True, "5": False, "not in conflict with z, inconsistent": False}
    cases = tmp_path / "cases.jsonl"
    rows = [{"problem": "x?", "answer": text, "finds_fault": finds} for text, finds in (*answers.items(), (" ", False))]
    cases.write_text("".join(json.dumps(row) + "\n" for row in rows))
    error = judge_error(WordJudge(), cases)
    values = {name: (estimate.value, estimate.num_problems) for name, estimate in error.items()}
    assert values == {"missed": (0.5, 2), "invented": (pytest.approx(1 / 3), 3), "undecided": (0.2, 5)}


def test_the_shipped_cases_are_of_both_kinds_and_too_hard_for_words() -> None:
    error = judge_error(WordJudge())
    assert error["missed"].num_problems >= 9
    assert error["invented"].num_problems >= 9
    assert 0 < error["missed"].value < 0.5
    assert 0 < error["invented"].value < 0.5


def model_judge(checkpoint: Path, folder: Path, engine: ScriptedEngine) -> ModelJudge:
    return ModelJudge(
        engine, checkpoint, lambda text: [len(text) - len(QUESTION)] * (1 + text.count("long")), 8, folder
    )


def test_a_model_is_asked_once_and_read_as_json(checkpoint: Path, tmp_path: Path) -> None:
    replies = {
        "a": 'So {"finds_fault": true}',
        "bb": '{"finds_fault": false}',
        "ccc": "It does not.",
        "dddd": '{"finds_fault": "yes"}',
        "eeeee": '{"finds_fault": true} no: {"finds_fault": false}',
        "ffffff": "[1, {finds_fault}",
    }
    first = len(f"{PROBLEM.problem}\n\nAnswer:\na")
    engine = ScriptedEngine(lambda prompt, sample: list(replies.values())[prompt[0] - first])
    pairs = [(text, PROBLEM) for text in replies]
    judge = model_judge(checkpoint, tmp_path, engine)
    verdicts = [grade.verdict.value for grade in judge.grade_all([*pairs[:2], ("long " * 10_000, PROBLEM), *pairs[2:]])]
    assert verdicts == ["right", "wrong", "unknown", "unknown", "unknown", "wrong", "unknown"]
    drawn = len(engine.requests)
    again = model_judge(checkpoint, tmp_path, engine).grade_all([*pairs[:2], ("long " * 10_000, PROBLEM), *pairs[2:]])
    assert [grade.verdict.value for grade in again] == verdicts
    assert len(engine.requests) == drawn
    assert [grade.verdict.value for grade in judge.grade_all([("long " * 10_000, PROBLEM)])] == ["unknown"]
    assert judge.grade_all([]) == []
