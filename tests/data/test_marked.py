"""Traces with a known first wrong step: of files, and planted."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from redi_lab.config.compose import load_config
from redi_lab.data import arithmetic, chains
from redi_lab.data.arithmetic import ArithmeticSource
from redi_lab.data.chains import ChainsSource
from redi_lab.data.marked import MarkedTrace, planted, read_marked
from redi_lab.data.teacher import ChainProblem
from redi_lab.errors import UserError
from redi_lab.evaluation.conditions import conditions_of

TEXT = "1+1=2.\n2+2=5.\nSo 5."
STEPS = [
    {"start": 0, "end": 7, "right": True},
    {"start": 7, "end": 14, "right": False},
    {"start": 14, "end": 19, "right": None},
]


def written(path: Path, **changes: Any) -> str:
    generation = {"text": TEXT, "correct": False, "steps": STEPS} | changes.pop("generation", {})
    right = {"text": "4", "correct": True, "steps": [{"start": 0, "end": 1}]}
    row = {"id": "a", "problem": "1+1+2?", "answer": "4", "generations": [generation, right]} | changes
    path.write_text(json.dumps(row) + "\n")
    return str(path)


def test_traces_of_a_file(tmp_path: Path) -> None:
    wrong, right = read_marked(written(tmp_path / "traces.jsonl"))
    assert wrong == MarkedTrace("a/0", "1+1+2?", ("4",), ("1+1=2.", "2+2=5.", "So 5."), 2)
    assert (right.id, right.steps, right.first_wrong) == ("a/1", ("4",), 0)
    assert wrong.shown("Step {number}: {text}") == "1+1+2?\nStep 1: 1+1=2.\nStep 2: 2+2=5.\nStep 3: So 5."


def test_a_step_may_hold_what_stands_for_it() -> None:
    trace = MarkedTrace("a", "?", ("4",), ("{number} {text}",), 0)
    assert trace.shown("{number}: {text}.") == "?\n1: {number} {text}."


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer": None}, "id a: has no answer, which a correction must come to"),
        ({"generation": {"steps": []}}, "id a: trace 1: has no steps; give"),
        (
            {"generation": {"steps": STEPS[:1]}},
            'id a: trace 1: is not known to be right, and no step of it has "right"',
        ),
        ({"generation": {"correct": None, "steps": STEPS[:1]}}, "id a: trace 1: is not known to be right"),
        ({"generation": {"steps": [{"start": 7, "end": 30, "right": False}]}}, "a place in the text, from 8 to 19"),
    ],
)
def test_what_cannot_be_asked_about_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        list(read_marked(written(tmp_path / "traces.jsonl", **changes)))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", [ArithmeticSource(), ChainsSource()])
def test_the_planted_line_is_the_first_that_does_not_follow(source: ArithmeticSource | ChainsSource) -> None:
    """Its result is not that of the line before and its operand; and it is the only one."""
    rng = random.Random(0)
    for index in range(200):
        problem = source.draw(rng)
        trace = planted("a", problem.text, (str(problem.answer),), is_wrong=index % 2 == 0)
        assert trace == planted("a", problem.text, (str(problem.answer),), is_wrong=index % 2 == 0)
        assert ChainProblem.read(problem.text) == problem
        total, wrong = problem.start, []
        for number, (operand, line) in enumerate(zip(problem.operands, trace.steps[:-1], strict=True), start=1):
            result = int(line.split()[-2])
            if result != (total - operand if problem.takes else total + operand):
                wrong.append(number)
            total = result
        assert wrong == [trace.first_wrong][: index % 2 == 0]
        assert (trace.first_wrong == 0) == (trace.steps[-1] == f"\\boxed {{ {problem.answer} }}")


@pytest.mark.parametrize(("source", "task"), [(ArithmeticSource(), arithmetic), (ChainsSource(), chains)])
def test_the_protocol_is_in_the_tasks_words(source: ArithmeticSource | ChainsSource, task: Any) -> None:
    """Every token of a question about a trace is one that the task's own texts have, or a line break."""
    settings = load_config("evaluate", ["checkpoint=.", "protocol=embedded_critique"], check_paths=False).eval
    criticised, _ = conditions_of(settings.conditions, {})
    rng, tokenizer = random.Random(0), task.build_tokenizer()
    known: set[int] = set(tokenizer("\n")["input_ids"])
    asked: set[int] = set()
    for index in range(400):
        problem = source.draw(rng)
        trace = planted("a", problem.text, ("1",), is_wrong=index % 2 == 0)
        known |= {token for text in (problem.text, "\n".join(trace.steps)) for token in tokenizer(text)["input_ids"]}
        asked |= set(tokenizer(criticised.put(trace.shown(criticised.steps or "")))["input_ids"])
    assert asked <= known
