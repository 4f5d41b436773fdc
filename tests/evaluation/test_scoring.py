from __future__ import annotations

import math

import pytest

from redi_lab.evaluation.benchmarks import EvalProblem
from redi_lab.evaluation.results import EvaluationResult, ResultRow
from redi_lab.evaluation.scoring import (
    UNFINISHED_THOUGHT,
    explain_zero,
    grade_completions,
    score,
    text_statistics,
    verdict_matrix,
)
from redi_lab.grading.grader import Grade, Verdict
from redi_lab.verifiers.base import Limits
from redi_lab.verifiers.math import MathVerifier


def row(problem: str, sample: int, verdict: str, answer: str | None, text: str = "", tokens: int = 4) -> ResultRow:
    finish = "length" if answer is None else "stop"
    return ResultRow(problem, sample, text, finish, verdict, "", answer, tokens)


ROWS = [
    row("a", 0, "right", "3"),
    row("a", 1, "wrong", "1/2", "Wait"),
    row("a", 2, "wrong", "1 / 2"),
    row("a", 3, "unknown", None, tokens=12),
    row("b", 0, "right", "4"),
    row("b", 1, "right", "4.0"),
    row("b", 2, "wrong", "5"),
    row("b", 3, "unknown", "odd"),
]


def test_metrics_by_hand() -> None:
    """a: 1 of 4 right; b: 2 of 4. pass@2: 1 − C(3,2)/6 and 1 − C(2,2)/6."""
    metrics = score(ROWS, 4)
    assert metrics["pass_at_1"] == pytest.approx(3 / 8)
    assert metrics["pass_at_2"] == pytest.approx((1 / 2 + 5 / 6) / 2)
    assert metrics["pass_at_4"] == 1.0
    assert metrics["truncation_rate"] == 1 / 8
    assert metrics["unknown_rate"] == 2 / 8
    assert metrics["mean_tokens"] == 5.0
    assert metrics["waits_per_completion"] == 1 / 8
    assert metrics["waits_per_1k_tokens"] == 25.0
    assert (metrics["num_problems"], metrics["num_samples"]) == (2.0, 4.0)
    assert all(math.isfinite(value) for value in metrics.values())


def test_one_sample_has_neither_sem_nor_pass_at_k() -> None:
    metrics = score([row("a", 0, "wrong", "1")], num_samples=1)
    assert metrics["pass_at_1"] == 0.0
    assert not any(word in name for name in metrics for word in ("sem", "pass_at_2"))
    assert all(math.isfinite(value) for value in metrics.values())


def test_pass_at_k_for_powers_of_two_and_all_samples() -> None:
    names = score([row("a", sample, "right", "1") for sample in range(6)], num_samples=6)
    assert [k for k in range(8) if f"pass_at_{k}" in names] == [1, 2, 4, 6]


def test_verdict_matrix() -> None:
    assert verdict_matrix(ROWS, 4).tolist() == [[True, False, False, False], [True, True, False, False]]


BOXED = r"\boxed{7}"
THOUGHTS = {
    f"<think>\nso {BOXED}\n</think>\nIt is {BOXED}.": ("right", "right"),
    f"<think>\nso {BOXED}\n</think>\nIt is seven.": ("right", "unknown"),
    f"<think>\nso {BOXED}\n</think>\n" + r"It is \boxed{8}.": ("wrong", "wrong"),
    r"so \boxed{8}" + f"\n</think>\n{BOXED}\n</think>\n" + r"\boxed{9}": ("wrong", "right"),
    f"<think>\nso {BOXED}, or": ("right", "wrong"),
    f"It is {BOXED}.": ("right", "wrong"),
    "": ("unknown", "wrong"),
}


@pytest.mark.parametrize("require_closed_thought", [False, True])
def test_an_answer_counts_only_behind_the_thought_where_that_is_asked(require_closed_thought: bool) -> None:
    pairs = [(text, EvalProblem("a", "3 + 4?", ("7",))) for text in THOUGHTS]
    with MathVerifier(Limits()) as grader:
        grades = grade_completions(grader, pairs, require_closed_thought=require_closed_thought)
    assert [grade.verdict for grade in grades] == [both[require_closed_thought] for both in THOUGHTS.values()]
    unfinished = Grade(Verdict.WRONG, UNFINISHED_THOUGHT, None)
    assert [text for text, grade in zip(THOUGHTS, grades, strict=True) if grade == unfinished] == (
        [text for text in THOUGHTS if "</think>" not in text] if require_closed_thought else []
    )


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ((6, 3, 1), "6 of 10 completions were cut off at 96 tokens: raise eval.max_new_tokens"),
        ((3, 6, 1), "6 of 10 completions hold no answer that can be read (unknown)"),
        ((2, 2, 6), "6 of 10 completions hold a wrong answer: this model does not solve these problems"),
    ],
)
def test_a_zero_is_explained_by_what_most_completions_have_in_common(counts: tuple[int, int, int], reason: str) -> None:
    """A completion that was cut counts as cut, although no answer is found in it either."""
    kinds = (("length", "unknown"), ("stop", "unknown"), ("stop", "wrong"))
    failed = [kind for kind, count in zip(kinds, counts, strict=True) for _ in range(count)]
    rows = tuple(ResultRow(str(i), 0, "", finish, verdict, "", None, 4) for i, (finish, verdict) in enumerate(failed))
    protocol = {"sampling": {"max_new_tokens": 96}}
    result = EvaluationResult("", protocol, "b", "", "", score(rows, 1), rows)
    assert reason in str(explain_zero(result))


def test_a_score_above_zero_needs_no_explanation() -> None:
    rows = (row("a", 0, "right", "1"), row("b", 0, "unknown", None))
    assert explain_zero(EvaluationResult("", {}, "b", "", "", score(rows, 1), rows)) is None


def test_by_hand() -> None:
    """3 "Wait" in 2 completions and 40 + 10 tokens: 1.5 a completion, 60 in a thousand tokens."""
    found = text_statistics(["Wait. Wait, no.\nWait", "wait for the Waiter, he Waits; Waitress"], [40, 10])
    assert found == pytest.approx(
        {
            "mean_tokens": 25.0,
            "tokens_p10": 13.0,
            "tokens_p50": 25.0,
            "tokens_p90": 37.0,
            "waits_per_completion": 1.5,
            "waits_per_1k_tokens": 60.0,
        }
    )


def test_completions_without_a_token_have_no_rate() -> None:
    assert text_statistics([""], [0])["waits_per_1k_tokens"] == 0.0
