"""Backward problems of the embedded tasks: right by construction, and in their words."""

from __future__ import annotations

import random
import re
from dataclasses import replace

import pytest

from redi_lab.data import arithmetic, chains
from redi_lab.data.arithmetic import ArithmeticSource
from redi_lab.data.backward import backward_rows
from redi_lab.data.chains import ChainsSource
from redi_lab.data.teacher import ChainProblem, Teacher

CAREFUL = Teacher(slip_rate=0.0, haste_last=0.0, haste_before=0.0)
SOURCES = [
    pytest.param(ArithmeticSource(num_problems=300, num_heldout=5, seed=3), id="arithmetic"),
    pytest.param(ChainsSource(num_problems=60, num_heldout=5, seed=3), id="chains"),
]


def test_additions_are_undone_by_hand() -> None:
    """216 − 68: 8+8=16, 4+6+1=11, 1+1=2; 148 − 72: 6+2=8, 7+7=14, and the 1 that it carried: 0+1=1."""
    turned = ChainProblem(76, (72, 68)).turned_round()
    assert turned.text == "second add 68 , first add 72 , so 216 ?"
    assert turned.answer == 76
    assert CAREFUL.solve(turned, random.Random(0)).text == (
        "second add 68 so 216 : 8+8=16 4+6+1=11 1+1=2 so 148 .\n"
        "first add 72 so 148 : 6+2=8 7+7=14 0+1=1 so 76 .\n"
        "\\boxed { 76 }"
    )
    chain = ChainProblem(6, (967, 48), restates=False).turned_round()
    assert chain.text == "second add 48 , first add 967 , so 1021 ?"
    assert CAREFUL.solve(chain, random.Random(0)).text.startswith(
        "second add 48 : 3+8=11 7+4+1=12 9+1=10 0+1=1 so 973 ."
    )


@pytest.mark.parametrize("source", SOURCES)
def test_every_column_of_careful_work_is_a_true_addition(source: ArithmeticSource | ChainsSource) -> None:
    for row in backward_rows(replace(source, teacher=CAREFUL)):
        if row["backward_completion"] is not None:
            assert row["consistent"] is True
            columns = re.findall(r"([\d+]+)=(\d+)", str(row["backward_completion"]))
            assert columns
            assert all(sum(map(int, terms.split("+"))) == int(result) for terms, result in columns)


@pytest.mark.parametrize("source", SOURCES)
def test_a_problem_is_read_back(source: ArithmeticSource | ChainsSource) -> None:
    rng = random.Random(0)
    for _ in range(300):
        problem = source.draw(rng)
        assert ChainProblem.of_text(problem.text) == problem


@pytest.mark.parametrize("source", SOURCES)
def test_consistent_is_what_comes_to_the_start(source: ArithmeticSource | ChainsSource) -> None:
    rows = list(backward_rows(source))
    assert rows == list(backward_rows(source))
    assert not {row["problem"] for row in rows} & {one.problem for one in source.load().held_out}
    for row in rows:
        problem = ChainProblem.of_text(str(row["problem"]))
        assert row["answer"] == str(problem.answer)
        if problem.takes:
            assert [row[key] for key in ("backward_problem", "backward_completion", "consistent")] == [None] * 3
        else:
            ends = re.findall(r"\d+", str(row["backward_completion"]))[-1]
            assert row["consistent"] is (int(ends) == problem.start)
    share = sum(row["consistent"] is False for row in rows) / len(rows)
    assert 0.1 < share < 0.6
    assert any(row["consistent"] is None for row in rows) is isinstance(source, ChainsSource)


@pytest.mark.parametrize(("source", "task"), [(SOURCES[0].values[0], arithmetic), (SOURCES[1].values[0], chains)])
def test_backward_problems_are_in_the_tasks_words(source: ArithmeticSource | ChainsSource, task: object) -> None:
    """No token that forward problems and traces never have, but first in mid-sentence, which is whole in both."""
    tokenizer, made = task.build_tokenizer(), set[int]()  # type: ignore[attr-defined]
    known = set(tokenizer(" first")["input_ids"])
    assert len(known) == 1
    for row in backward_rows(source):
        known.update(tokenizer(f"{row['problem']}")["input_ids"], tokenizer(f"{row['completion']}")["input_ids"])
        if row["backward_problem"] is not None:
            made.update(tokenizer(f"{row['backward_problem']}")["input_ids"])
            made.update(tokenizer(f"{row['backward_completion']}")["input_ids"])
    assert made
    assert made <= known
