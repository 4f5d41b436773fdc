"""Three tasks: which rows go where, each counted once, and weights that are exactly equal."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import pytest

from redi_lab.curation.revthink import TASKS, ReverseRow, Task, ThreeTasks, equal_weights, read_row
from redi_lab.data.rows import Row
from redi_lab.errors import UserError
from redi_lab.grading.grader import Verdict

KEYS = {name: name for name in ReverseRow._fields}
PROMPTS: dict[Task, str] = {"forward": "{problem}", "backward_question": "turn {problem}", "backward": "back {problem}"}
ROW = ReverseRow("Q", "R", "1", "Qb", "Rb", True)


def sorted_rows(*rows: tuple[ReverseRow, Verdict | None]) -> ThreeTasks:
    tasks = ThreeTasks(PROMPTS)
    for number, (row, verdict) in enumerate(rows):
        tasks.add(str(number), row, verdict)
    return tasks


def test_weights_by_hand() -> None:
    """Of 60 + 10 + 30 = 100 tokens each task is to have 100/3."""
    weights = equal_weights({"forward": 60, "backward_question": 10, "backward": 30})
    assert weights == pytest.approx({"forward": 100 / 180, "backward_question": 100 / 30, "backward": 100 / 90})


@pytest.mark.parametrize("lengths", [(1, 1, 1), (7, 999_983, 13), (73_523, 24_797, 76_056)])
def test_each_task_has_a_third_to_the_last_digit(lengths: tuple[int, int, int]) -> None:
    by_task = dict(zip(TASKS, lengths, strict=True))
    shares = [Fraction(weight) * by_task[task] / sum(lengths) for task, weight in equal_weights(by_task).items()]
    assert all(abs(share - Fraction(1, 3)) < Fraction(1, 10**15) for share in shares)


def test_a_whole_row_gives_an_example_of_each_task() -> None:
    tasks = sorted_rows((ROW, Verdict.RIGHT))
    assert {task: list(examples.items()) for task, examples in tasks.examples.items()} == {
        "forward": [(("Q", "R"), "0/forward")],
        "backward_question": [(("turn Q", "Qb"), "0/backward_question")],
        "backward": [(("back Qb", "Rb"), "0/backward")],
    }
    assert not tasks.dropped
    assert not tasks.forward_alone


@pytest.mark.parametrize(
    ("changes", "verdict", "dropped", "forward_alone"),
    [
        ({}, Verdict.WRONG, ["wrong forward trace"], []),
        ({}, Verdict.UNKNOWN, ["unknown forward trace"], []),
        ({"consistent": False}, Verdict.WRONG, ["wrong forward trace"], []),
        ({"consistent": False}, None, [], ["inconsistent backward trace"]),
        ({"consistent": None}, None, [], ["consistency unknown"]),
        ({"backward_problem": None}, Verdict.RIGHT, [], ["no backward question or trace"]),
        ({"backward_completion": None, "consistent": None}, None, [], ["no backward question or trace"]),
    ],
)
def test_each_reason_has_its_count(
    changes: dict[str, Any], verdict: Verdict | None, dropped: list[str], forward_alone: list[str]
) -> None:
    tasks = sorted_rows((ROW._replace(**changes), verdict))
    assert (list(tasks.dropped), list(tasks.forward_alone)) == (dropped, forward_alone)
    assert len(tasks.examples["forward"]) == (0 if dropped else 1)
    assert not tasks.examples["backward_question"]
    assert not tasks.examples["backward"]
    assert len(tasks.inconsistent) == (forward_alone == ["inconsistent backward trace"])


def test_what_another_row_has_given_is_not_given_again() -> None:
    tasks = sorted_rows((ROW, None), (ROW, None), (ROW._replace(backward_completion="Rb2"), None))
    assert tasks.num_whole == 3
    assert {task: len(examples) for task, examples in tasks.examples.items()} == {
        "forward": 1,
        "backward_question": 1,
        "backward": 2,
    }


def test_inconsistent_traces_stand_against_consistent_ones_of_their_backward_problem() -> None:
    wrong = ROW._replace(consistent=False, backward_completion="no")
    alone = wrong._replace(backward_problem="another")
    unknown = wrong._replace(consistent=None, backward_completion="who knows")
    tasks = sorted_rows((wrong, None), (wrong, None), (alone, None), (unknown, None), (ROW, None))
    assert list(tasks.contrasts()) == [("back Qb", ["Rb"], ["no"])]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"completion": ...}, "f:1: without the key completion; the row has problem, .*name it by completion=KEY"),
        ({"consistent": ...}, "f:1: without the key consistent"),
        ({"problem": None}, "f:1: key problem: expected a string that is not empty, got null"),
        ({"problem": " "}, 'f:1: key problem: expected a string that is not empty, got " "'),
        ({"answer": 7}, "f:1: key answer: expected a string that is not empty or null, got 7"),
        ({"backward_problem": ""}, 'f:1: key backward_problem: expected a string that is not empty or null, got ""'),
        ({"consistent": "yes"}, 'f:1: key consistent: expected true, false or null, got "yes"'),
        ({"consistent": 1}, "f:1: key consistent: expected true, false or null, got 1"),
    ],
)
def test_bad_rows_are_refused_by_place_key_and_value(changes: dict[str, Any], message: str) -> None:
    values = {key: value for key, value in (ROW._asdict() | changes).items() if value is not ...}
    with pytest.raises(UserError, match=message):
        read_row(Row("f:1", values), KEYS)


def test_columns_may_have_other_names_and_no_answer() -> None:
    values = {
        "question": "Q",
        **{key: value for key, value in ROW._asdict().items() if key not in ("problem", "answer")},
    }
    assert read_row(Row("f:1", values), KEYS | {"problem": "question"}) == ROW._replace(answer=None)
