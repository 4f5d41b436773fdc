"""All metrics of a graded evaluation: from rows, one a completion, to named numbers.

metrics = score(rows, num_samples=16)
metrics["pass_at_1"], metrics["pass_at_1_ci_low"], metrics["maj_at_16"], metrics["waits_per_1k_tokens"]
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from redi_lab.evaluation.metrics import NO_VOTE, Estimate, Verdicts, majority, pass_at_1, pass_at_k
from redi_lab.evaluation.results import EvaluationResult, ResultRow
from redi_lab.evaluation.text_statistics import text_statistics
from redi_lab.grading.equivalence import Outcome, compare_answers
from redi_lab.grading.grader import Gold, Grade, Grader, Verdict

UNFINISHED_THOUGHT = "unfinished_thought"
"""Reason of a completion that is wrong because its thought never ends."""
_END_OF_THOUGHT = "</think>"
_ABOUT_ZERO = 0.02


def grade_completions(
    grader: Grader, completions: Sequence[tuple[str, Gold]], *, require_closed_thought: bool
) -> list[Grade]:
    """Grade completions of a model, in their order.

    Args:
        grader: Compares answers.
        completions: Texts with their accepted answer or answers.
        require_closed_thought: Search the answer only in what follows the first `</think>` (and precedes a second), and
            count a completion without one as wrong whatever it says: how the paper's code grades its tables (rllm,
            `RewardMathFn`). Otherwise the whole text is searched.
    """
    if not require_closed_thought:
        return grader.grade_all(completions)
    parts = [text.split(_END_OF_THOUGHT, 2) for text, _ in completions]
    closed = [(part[1], gold) for part, (_, gold) in zip(parts, completions, strict=True) if len(part) > 1]
    grades = iter(grader.grade_all(closed))
    return [next(grades) if len(part) > 1 else Grade(Verdict.WRONG, UNFINISHED_THOUGHT, None) for part in parts]


def verdict_matrix(rows: Sequence[ResultRow], num_samples: int) -> Verdicts:
    """Whether each sample is right, shape (problems, samples). Unknown is not right.

    Args:
        rows: By problem, then sample, `num_samples` of each problem.
        num_samples: Samples of each problem.
    """
    return np.array([row.verdict == Verdict.RIGHT for row in rows], dtype=np.bool_).reshape(-1, num_samples)


def verdicts_of(result: EvaluationResult) -> Verdicts:
    """The verdict matrix of a stored result."""
    return verdict_matrix(result.rows, int(result.metrics["num_samples"]))


def score(rows: Sequence[ResultRow], num_samples: int) -> dict[str, float]:
    """Metrics of graded completions, each a finite number.

    `pass_at_1` comes with `_sem` (from two samples on), `_ci_low` and `_ci_high`; from two samples on, `pass_at_k` for
    k = 2, 4, 8, … and the number of samples, and `maj_at_k` for that number, with `_ci_low` and `_ci_high`;
    `distinct_answers` is the mean number of different answers to a problem. `truncation_rate` and `unknown_rate` are
    shares of completions. See `redi_lab.evaluation.text_statistics` for the others.

    Args:
        rows: Completions by problem, then sample, `num_samples` of each.
        num_samples: Samples of each problem.
    """
    correct = verdict_matrix(rows, num_samples)
    classes = _classes(rows, correct)
    metrics = flatten("pass_at_1", pass_at_1(correct))
    for k in _numbers_of_tries(num_samples):
        metrics |= flatten(f"pass_at_{k}", pass_at_k(correct, k))
    if num_samples > 1:
        metrics |= flatten(f"maj_at_{num_samples}", majority(correct, classes))
        metrics["distinct_answers"] = float(np.mean([len(np.unique(row[row != NO_VOTE])) for row in classes]))
    metrics["truncation_rate"] = float(np.mean([row.finish_reason == "length" for row in rows]))
    metrics["unknown_rate"] = float(np.mean([row.verdict == Verdict.UNKNOWN for row in rows]))
    metrics |= text_statistics([row.text for row in rows], [row.num_tokens for row in rows])
    metrics["num_problems"], metrics["num_samples"] = float(len(correct)), float(num_samples)
    return metrics


def explain_zero(result: EvaluationResult) -> str | None:
    """What most of the completions that are not right have in common, in words; None where the score is not about 0.

    Each counts once: as cut off, else as without a readable answer (unknown), else as wrong.
    """
    if result.metrics["pass_at_1"] >= _ABOUT_ZERO:
        return None
    failed = [row for row in result.rows if row.verdict != Verdict.RIGHT]
    cut = sum(row.finish_reason == "length" for row in failed)
    unknown = sum(row.finish_reason != "length" and row.verdict == Verdict.UNKNOWN for row in failed)
    wrong = len(failed) - cut - unknown
    room = result.protocol["sampling"]["max_new_tokens"]
    reasons = {
        f"were cut off at {room:,} tokens: raise eval.max_new_tokens, or check that the model ends its answers, before"
        " this score means anything": cut,
        "hold no answer that can be read (unknown): look at the samples, and ask for \\boxed{} in"
        " eval.prompt_template, before this score means anything": unknown,
        "hold a wrong answer: this model does not solve these problems. The run shows that data and training work, and"
        " says nothing about the method": wrong,
    }
    reason, number = max(reasons.items(), key=lambda item: item[1])
    return f"pass@1 is {result.metrics['pass_at_1']:.3f}: {number:,} of {len(result.rows):,} completions {reason}."


def flatten(name: str, estimate: Estimate) -> dict[str, float]:
    """An estimate as flat metrics: `name`, `name_ci_low`, `name_ci_high`, and `name_sem` where there is one."""
    numbers = {name: estimate.value, f"{name}_ci_low": estimate.ci_low, f"{name}_ci_high": estimate.ci_high}
    return numbers if estimate.sem is None else numbers | {f"{name}_sem": estimate.sem}


def _numbers_of_tries(num_samples: int) -> list[int]:
    powers = [2**exponent for exponent in range(1, num_samples.bit_length())]
    return sorted({k for k in powers if k <= num_samples} | ({num_samples} - {1}))


def _classes(rows: Sequence[ResultRow], correct: Verdicts) -> NDArray[np.int64]:
    answers = [row.answer for row in rows]
    count = correct.shape[1]
    by_problem = [answers[start : start + count] for start in range(0, len(answers), count)]
    return np.array([answer_classes(*pair) for pair in zip(by_problem, correct.tolist(), strict=True)])


def answer_classes(answers: Sequence[str | None], correct: Sequence[bool]) -> NDArray[np.int64]:
    """Label the answers of one problem so that equivalent ones share a label.

    All right answers meet the gold answer, so they are one class, and no wrong one joins it. The others are compared
    by the conventions of docs/grading.md with the first answer of each class so far; what those leave undecided counts
    as different.

    Args:
        answers: Final answer of each completion, None where none was stated.
        correct: Whether each was graded right.

    Returns:
        Labels, shape (completions,): 0 for right answers, 1, 2, … in order of appearance, `NO_VOTE` for no answer.
    """
    representatives: dict[str, int] = {}
    known: dict[str, int] = {}
    labels = []
    for answer, is_right in zip(answers, correct, strict=True):
        if is_right:
            labels.append(0)
        elif answer is None:
            labels.append(NO_VOTE)
        else:
            if answer not in known:
                known[answer] = _find(answer, representatives)
            labels.append(known[answer])
    return np.array(labels, dtype=np.int64)


def _find(answer: str, representatives: dict[str, int]) -> int:
    for other, label in representatives.items():
        if compare_answers(answer, other) is Outcome.SAME:
            return label
    representatives[answer] = len(representatives) + 1
    return representatives[answer]
