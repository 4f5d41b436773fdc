"""Verdicts of reasoning-gym's scorers."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from redi_lab.data.reasoning_gym import UNFREE, ReasoningGymSource
from redi_lab.errors import UserError
from redi_lab.evaluation.benchmarks import EvalProblem
from redi_lab.grading.grader import Grade
from redi_lab.verifiers.base import Limits
from redi_lab.verifiers.reasoning_gym import RUNS_ANSWERS, ReasoningGymVerifier, score

pytest.importorskip("reasoning_gym", reason="reasoning-gym is not installed (pip install 'redi-lab[reasoning-gym]')")
TASKS = ["chain_sum", "spiral_matrix", "n_queens", "countdown", "simple_integration", "fraction_simplification"]


@pytest.fixture(scope="module")
def source() -> ReasoningGymSource:
    return ReasoningGymSource(TASKS, num_heldout=len(TASKS))


@pytest.fixture(scope="module")
def problems(source: ReasoningGymSource) -> dict[str, EvalProblem]:
    """One of each task."""
    rows = source.load().held_out
    return {row.id.partition("/")[0]: EvalProblem(row.id, row.problem, row.answers) for row in rows}


def verifier(timeout_seconds: float = 5.0, **settings: Any) -> ReasoningGymVerifier:
    return ReasoningGymVerifier(Limits(1, timeout_seconds), **settings)


def boxed(answer: str) -> str:
    return f"We think, and so it is \\boxed{{{answer}}}."


def test_only_a_score_of_1_is_right_and_what_cannot_be_scored_is_unknown(
    source: ReasoningGymSource, problems: dict[str, EvalProblem], tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    attack = f"__import__('pathlib').Path('{mark}').touch()"
    spiral = problems["spiral_matrix"].answers[0]
    cases: list[tuple[str, str, str, str]] = [
        ("chain_sum", boxed(problems["chain_sum"].answers[0]), "right", "score 1"),
        ("chain_sum", boxed(problems["chain_sum"].answers[0] + " apples"), "wrong", "score 0."),
        ("chain_sum", "no idea what this could be, dear reader, whatever I try", "unknown", "no final answer"),
        ("chain_sum", boxed("1" * 3000), "unknown", "answer longer than 2000"),
        ("chain_sum", boxed(r"\frac{1}{2}"), "unknown", "LaTeX"),
        ("spiral_matrix", boxed(spiral), "right", "score 1"),
        ("spiral_matrix", boxed(str(spiral.split())), "wrong", "score 0.1"),  # the scorer's word for a list
        ("simple_integration", boxed(problems["simple_integration"].answers[0]), "right", "score 1"),
        ("simple_integration", boxed("x**2 + sin(x)"), "wrong", "score 0"),
        ("countdown", boxed("1 + 1"), "wrong", "score 0.05"),
        ("countdown", boxed("9**9**9**9"), "unknown", "scorer timed out"),
        ("n_queens", boxed("Q Q Q Q"), "wrong", "score 0"),
        *((task, boxed(attack), "unknown", "its scorer would run") for task in TASKS if task in RUNS_ANSWERS),
    ]
    grades = verifier(timeout_seconds=3.0).grade_all((text, problems[task]) for task, text, *_ in cases)
    for (task, text, verdict, reason), grade in zip(cases, grades, strict=True):
        assert isinstance(grade, Grade)
        assert grade.verdict == verdict, (task, text, grade)
        assert grade.reason.startswith(reason), (task, text, grade)
    assert not mark.exists()
    # The attack is one: the scorer itself falls for it.
    score("spiral_matrix", source.configuration("spiral_matrix"), source.entry(problems["spiral_matrix"].id), attack)
    assert mark.exists()


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os')", "open('x')", "().__class__", "x.diff", "S('open')", "eval", "sympify(1)", "x_y", "f'{x}'",
        "lambda x", "print(1)", "preview(x)", "[1]*9", "e1val", "x;y", "x:=1", "#", "1.real", "ｅval(1)",
    ],
)  # fmt: skip
def test_what_could_do_harm_is_not_given_to_a_scorer_that_runs_it(text: str) -> None:
    expression = RUNS_ANSWERS["countdown"]
    assert text == "e1val" or not expression.fullmatch(text)
    literal = RUNS_ANSWERS["n_queens"]
    assert not literal.fullmatch(text) or not re.search(r"[(.{*;:#]", text)


@pytest.mark.parametrize("text", ["(3 + 4)*8/2 - 1.5", "x**2/2 + sin(2*x) + C", "-3*x^2 + exp(x)", "sqrt(2)*pi"])
def test_expressions_are_given(text: str) -> None:
    assert RUNS_ANSWERS["countdown"].fullmatch(text)


def test_every_scorer_that_runs_an_answer_is_known() -> None:
    from reasoning_gym.factory import DATASETS

    running = set()
    for task, (kind, _) in DATASETS.items():
        code = inspect.getsource(kind.score_answer)
        if re.search(r"(?<![\w.])(eval|exec|compile|sympify)\(|\b(sp|sympy)\.(parse_expr|sympify)\(", code) or (
            "sympy_parser import parse_expr" in inspect.getsource(inspect.getmodule(kind)) and "parse_expr(" in code  # type: ignore[arg-type]
        ):
            running.add(task)
    assert running - {"number_sorting"} == set(RUNS_ANSWERS)  # which runs its own answer


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # some tasks leave files open
def test_every_tasks_own_answer_is_right() -> None:
    from reasoning_gym.factory import DATASETS

    unlike = []
    for task in sorted(set(DATASETS) - {"composite", *UNFREE}):
        source = ReasoningGymSource([task])
        entry = source.entry(f"{task}/0/0")
        answer = entry["answer"]
        if answer is not None and score(task, source.configuration(task), entry, str(answer)) != 1.0:
            unlike.append((task, answer))
    assert unlike == []


def test_settings_decide_the_verdict() -> None:
    settings = verifier().settings
    assert settings["name"] == "reasoning-gym"
    assert settings["answers"] == "boxed"
    assert re.match(r"0\.1\.\d+", settings["version"])


def test_problems_of_others_and_of_other_settings_are_told_apart(problems: dict[str, EvalProblem]) -> None:
    verifier().check(problems.values())
    mine, problem = EvalProblem("chain_sum/0", "1 + 1?", ("2",)), problems["chain_sum"]
    wordy = {"chain_sum": {"min_terms": 5, "max_terms": 6}}
    for made, wrong in ((verifier(), mine), (verifier(difficulty=1), problem), (verifier(options=wordy), problem)):
        with pytest.raises(UserError, match=rf"^verifier=reasoning_gym: {wrong.id} is not the problem"):
            made.check([wrong])
        [grade] = made.grade_all([(boxed(wrong.answers[0]), wrong)])
        assert (grade.verdict, grade.reason) == ("unknown", "not a problem of reasoning-gym under these settings")


def test_a_missing_package_ends_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redi_lab.verifiers.reasoning_gym.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^verifier=reasoning_gym: reasoning-gym is not installed .*reasoning-gym\]'$"):
        verifier()
