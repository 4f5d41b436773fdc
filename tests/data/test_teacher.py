"""The simulated teacher: each way of failing, its label, and how traces are read back."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from redi_lab.data.teacher import HASTE, WAIT, Attempt, ChainProblem, Teacher, describe_work

TEACHERS = Path(__file__).parents[2] / "conf" / "data" / "teacher"
PERFECT: dict[str, Any] = {"slip_rate": 0.0, "haste_last": 0.0, "haste_before": 0.0}
SUM = ChainProblem(76, (72, 68))
TAKE = ChainProblem(1203, (417,), takes=True, restates=False)


def solve(problem: ChainProblem, seed: int = 0, **habits: Any) -> Attempt:
    return Teacher(**PERFECT | habits).solve(problem, random.Random(seed))


def test_taking_away_by_columns() -> None:
    """3−7 borrows: 13−7=6; 0−1−1 borrows: 10−1−1=8; 2−4−1 borrows: 12−4−1=7; 1−1=0."""
    assert TAKE.text == "first take 417 , so 1203 ?"
    expected = "first take 417 : 13-7=6 10-1-1=8 12-4-1=7 1-1=0 so 786 .\n\\boxed { 786 }"
    assert solve(TAKE) == (expected, TAKE.answer, None)


def test_a_perfect_teacher_takes_away_correctly() -> None:
    rng = random.Random(1)
    for _ in range(300):
        operands = tuple(rng.randint(10, 9999) for _ in range(3))
        problem = ChainProblem(rng.randint(1000, 9999) + sum(operands), operands, takes=True)
        assert solve(problem).answer == problem.answer == problem.start - sum(operands)


@pytest.mark.parametrize(
    ("kind", "habits", "text", "answer"),
    [
        ("misconception", {"misconception_rate": 1.0}, "first add 75 to 76 : 6+5=11 7+7=14 so 141 .", 141),
        (
            "rambling",
            {"rambling_rate": 1.0},
            "first add 75 to 76 : 6+5=11 7+7+1=15 so 151 .\nfirst add 75 to 151 : 1+5=6 5+7=12 1+1=2 so 226 .",
            226,
        ),
        ("truncation", {"truncation_rate": 1.0}, "first add 75 to 76 : 6+5=11 7+7+1=15 so 151 .", None),
    ],
)
def test_ways_of_failing_by_hand(kind: str, habits: dict[str, Any], text: str, answer: int | None) -> None:
    end = "" if answer is None else f"\n\\boxed {{ {answer} }}"
    assert solve(ChainProblem(76, (75,)), **habits) == (text + end, answer, kind)


def test_a_trace_breaks_off_after_any_of_its_lines() -> None:
    traces = [solve(SUM, seed, truncation_rate=1.0) for seed in range(40)]
    assert {trace.text.count("\n") for trace in traces} == {0, 1}
    assert {(trace.answer, trace.error) for trace in traces} == {(None, "truncation")}


def test_a_misconception_without_a_carry_is_no_error() -> None:
    assert solve(ChainProblem(11, (22,)), misconception_rate=1.0) == solve(ChainProblem(11, (22,)))


def test_what_is_noticed_is_put_right() -> None:
    trace, answer, error = solve(SUM, slip_rate=0.5, correction_rate=1.0)
    assert (answer, error) == (SUM.answer, None)
    shown = re.findall(rf"([\d+]+)=(\d+) {WAIT} ([\d+]+)=(\d+)", trace)
    assert shown
    for work, wrong, again, right in shown:
        assert work == again
        assert eval(work) == int(right) == int(wrong) + (1 if int(right) > int(wrong) else -1)


def test_slips_reach_as_far_as_is_said() -> None:
    shown = re.findall(r"([\d+]+)=(\d+)", "".join(solve(SUM, n, slip_rate=0.5, slip_reach=3).text for n in range(200)))
    assert {int(value) - eval(work) for work, value in shown} == set(range(-3, 4))


def test_one_error_at_most_where_that_is_asked_for() -> None:
    """Half of the columns would slip; after the first wrong one the rest is right."""
    for seed in range(60):
        trace, answer, error = solve(SUM, seed, slip_rate=0.5, errs_once=True)
        wrong = [work for work, value in re.findall(r"([\d+]+)=(\d+)", trace) if eval(work) != int(value)]
        assert (len(wrong) == 1) is (error == "slip") is (answer != SUM.answer)


def test_the_first_error_gives_the_name() -> None:
    _, _, error = solve(SUM, haste_before=1.0, haste_slip_rate=1.0, truncation_rate=1.0)
    assert error == "haste"


@pytest.mark.parametrize("name", ["hasty", "careless", "misconceived", "rambling", "truncating", "mixture"])
def test_teachers_of_the_configuration_fail_in_their_way(name: str) -> None:
    """Every option is a teacher of this module; the pure ones know one kind of error, apart from slips by the hasty."""
    settings = OmegaConf.merge(*(OmegaConf.load(TEACHERS / f"{file}.yaml") for file in ("_base", name)))
    habits = {str(key): value for key, value in settings.items() if key not in ("_target_", "defaults")}
    teacher, rng = Teacher(**habits), random.Random(5)
    attempts = [teacher.solve(ChainProblem(rng.randint(11, 99), (78, 57)), rng) for _ in range(400)]
    errors = {error for _, _, error in attempts} - {None}
    pure = {"careless": "slip", "misconceived": "misconception", "rambling": "rambling", "truncating": "truncation"}
    everything = {"haste", *pure.values()}
    assert errors == ({pure[name]} if name in pure else {"haste", "slip"} if name == "hasty" else everything)


@pytest.mark.parametrize(
    ("traces", "expected"),
    [
        # 846+67=913 is a first line, of which only the next ones know the total; 913+304=1217 is right, 1217−20≠1190
        (
            [
                "first add 67 : 6+7=12 Wait , 6+7=13 4+6+1=11 8+1=9 so 913 .\n"
                "second add 304 : 3+4=7 1+0=1 9+3=12 so 1217 ."
            ],
            {"haste": 0.0, "columns": 1.0},
        ),
        (["first take 1 : 2-1=1 so 1217 .\nsecond take 20 : 7-0=7 so 1190 ."], {"haste": 0.0, "columns": 0.0}),
        (["first add 5 : 1+5=6 so 6 ."], {"haste": 0.0}),
        ([f"first add 5 : {HASTE} 6 .\nsecond add 5 : 6+5=11 so 11 ."], {"haste": 1.0, "columns": 1.0}),
        (["so 6 .\nwhat ?\nsecond add 5 : 6+5=11 so 11 ."], {"haste": 0.0}),  # what the line before said is unknown
    ],
)
def test_reading_lines_that_name_no_total(traces: list[str], expected: dict[str, float]) -> None:
    assert describe_work(traces) == expected


def test_a_problem_says_what_its_first_line_goes_on_from() -> None:
    traces = ["first add 5 : 1+5=6 so 16 .", "first add 5 : 1+5=6 so 16 ."]
    assert describe_work(traces, ["first add 5 , so 11 ?", "first add 5 , so 12 ?"]) == {"haste": 0.0, "columns": 0.5}


def test_a_long_hostile_line_is_read_in_no_time() -> None:
    assert describe_work(["first add 1 :" + " 1+1=2" * 20_000 + " ?"]) == {"haste": 0.0}
