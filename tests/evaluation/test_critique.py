"""What is counted of critiques and of what follows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from redi_lab.data.marked import MarkedTrace
from redi_lab.evaluation.benchmarks import EvalProblem
from redi_lab.evaluation.critique import StepJudge, correction, critique
from redi_lab.evaluation.results import EvaluationResult, ResultRow
from redi_lab.grading.grader import Verdict

TRACES = {
    name: MarkedTrace(name, problem, ("5",), ("a", "b", "c", "d")[:number], first_wrong)
    for name, problem, number, first_wrong in (
        ("p", "one", 2, 2), ("q", "two", 4, 1), ("r", "three", 4, 0), ("s", "three", 2, 0)
    )
}  # fmt: skip


def criticised(named: Mapping[str, int | None], traces: Mapping[str, MarkedTrace] = TRACES) -> EvaluationResult:
    """Replies that name these steps; None: none."""
    rows = []
    for name, step in named.items():
        verdict = Verdict.UNKNOWN if step is None else Verdict.RIGHT if step == traces[name].first_wrong else "wrong"
        rows.append(ResultRow(name, 0, "", "stop", verdict, "", None if step is None else str(step), 1))
    return EvaluationResult("k", {}, "b", "d", "c", {"num_samples": 1.0}, tuple(rows))


def became(verdicts: Sequence[str], traces: Mapping[str, MarkedTrace] = TRACES) -> EvaluationResult:
    rows = [ResultRow(name, 0, "", "stop", one, "", None, 1) for name, one in zip(traces, verdicts, strict=True)]
    return EvaluationResult("k", {}, "b", "d", "c", {"num_samples": 1.0}, tuple(rows))


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        ("\\boxed{2}", "right"),
        ("\\boxed { 2 }", "right"),
        ("It is \\boxed{\\text{Step 2}}.", "right"),
        ("\\boxed{1}", "wrong"),
        ("\\boxed{0}", "wrong"),
        ("\\boxed{3}", "unknown"),  # there are two
        ("\\boxed{-2, 1}", "unknown"),
        ("\\boxed{216}", "unknown"),
        ("\\boxed{" + "9" * 5000 + "}", "unknown"),
        ("\\boxed{yes}", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_reply_names_a_step_or_none(reply: str, verdict: str) -> None:
    [grade] = StepJudge(TRACES.values(), "boxed").grade_all([(reply, EvalProblem("p", "…", ("5",)))])
    assert grade.verdict == verdict


def test_no_step_is_wrong_is_0_and_marks_are_part_of_what_decides() -> None:
    judge = StepJudge(TRACES.values(), "boxed")
    [grade] = judge.grade_all([("\\boxed{0}", EvalProblem("r", "…", ("5",)))])
    assert (grade.verdict, grade.answer) == (Verdict.RIGHT, "0")
    others = [MarkedTrace("p", "one", ("5",), ("a", "b"), 1), *list(TRACES.values())[1:]]
    assert StepJudge(others, "boxed").settings != judge.settings


def test_f1_by_hand() -> None:
    """Three are called wrong, two of them are, one at its step: answer F1 2·2/(3 + 2), step F1 2·1/(3 + 2)."""
    found = critique(criticised({"p": 2, "q": 3, "r": 1, "s": 0}), TRACES)
    assert (found["answer_f1"].value, found["step_f1"].value, found["unread"].value) == (0.8, 0.4, 0.0)
    assert found["chance_answer_f1"].value == pytest.approx(2 * 2 / (4 + 2))
    assert found["chance_step_f1"].value == pytest.approx(2 * (1 / 2 + 1 / 4) / (4 + 2))
    assert found["answer_f1"].num_problems == 3  # r and s are traces of one
    assert found["step_f1"].ci_low < 0.4 < found["step_f1"].ci_high


def test_an_unread_reply_finds_nothing_and_is_never_right() -> None:
    found = critique(criticised({"p": None, "q": 1, "r": None, "s": None}), TRACES)
    assert found["answer_f1"].value == pytest.approx(2 * 1 / (1 + 2))  # p is missed
    assert found["unread"].value == 0.75
    silent = critique(criticised(dict.fromkeys(TRACES)), TRACES)
    assert (silent["answer_f1"].value, silent["step_f1"].value) == (0.0, 0.0)


def test_corrections_by_hand() -> None:
    """Of two wrong traces one is right now and one unread; of two right ones one is wrong: gain 1/2 − 1/2."""
    found = correction(became(["right", "unknown", "wrong", "right"]), TRACES)
    assert {name: estimate.value for name, estimate in found.items()} == {
        "wrong_to_right": 0.5, "wrong_to_unknown": 0.5, "right_to_wrong": 0.5, "right_to_unknown": 0.0, "gain": 0.0,
    }  # fmt: skip
    assert found["gain"].ci_low < 0 < found["gain"].ci_high
    only_wrong = {name: TRACES[name] for name in ("p", "q")}
    assert correction(became(["right", "right"], only_wrong), only_wrong).keys() == {
        "wrong_to_right",
        "wrong_to_unknown",
    }


def test_the_intervals_cover() -> None:
    """400 draws of 60 problems with one to three traces each; some problems are hard in every way.

    A trace is wrong with chance 1/2; 60 % of the wrong and 20 % of the right ones are called wrong, so the F1 of all is
    2·0.3 / (0.4 + 0.5). Wrong ones are mended with chance 1 − h and right ones spoilt with chance h/2, h uniform: the
    gain is 1/2 − 1/4.
    """
    generator, held = np.random.default_rng(0), {"answer_f1": 0, "gain": 0}
    for _ in range(400):
        traces, named, now = {}, {}, []
        for problem in range(60):
            hardness = generator.random()
            for number in range(generator.integers(1, 4)):
                name, is_wrong = f"{problem}/{number}", generator.random() < 0.5
                traces[name] = MarkedTrace(name, str(problem), ("5",), ("a", "b"), int(is_wrong))
                named[name] = int(generator.random() < (0.6 if is_wrong else 0.2))
                is_right = generator.random() < (1 - hardness if is_wrong else 1 - hardness / 2)
                now.append("right" if is_right else "wrong")
        found = critique(criticised(named, traces), traces) | correction(became(now, traces), traces)
        for name, truth in (("answer_f1", 0.6 / 0.9), ("gain", 0.25)):
            held[name] += found[name].ci_low <= truth <= found[name].ci_high
    assert all(0.925 <= count / 400 <= 0.975 for count in held.values()), held
