"""All metrics of a graded evaluation: from rows, one a completion, to named numbers.

metrics = score(rows, num_samples=16)
metrics["pass_at_1"], metrics["pass_at_1_ci_low"], metrics["pass_at_16"], metrics["waits_per_1k_tokens"]
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from redi_lab.evaluation.metrics import Estimate, Verdicts, pass_at_1, pass_at_k
from redi_lab.evaluation.results import EvaluationResult, ResultRow
from redi_lab.grading.grader import Grade, Verdict
from redi_lab.verifiers.base import WITH_TOOLS, Judge, Posed

UNFINISHED_THOUGHT = "unfinished_thought"
"""Reason of a completion that is wrong because its thought never ends."""
_END_OF_THOUGHT = "</think>"
_ABOUT_ZERO = 0.02
_WAIT = re.compile(r"\bWait\b")
"""Opens a second thought in reasoning traces; in lower case the word mostly belongs to the problem's story."""


def grade_completions(
    grader: Judge, completions: Sequence[tuple[str, Posed]], *, require_closed_thought: bool
) -> list[Grade]:
    """Grade completions of a model, in their order.

    Args:
        grader: Gives the verdicts.
        completions: Texts with their problems.
        require_closed_thought: Search the answer only in what follows the first `</think>` (and precedes a second), and
            count a completion without one as wrong whatever it says: how the paper's code grades its tables (rllm,
            `RewardMathFn`). Otherwise the whole text is searched.
    """
    if not require_closed_thought:
        return grader.grade_all(completions)
    parts = [text.split(_END_OF_THOUGHT, 2) for text, _ in completions]
    closed = [(part[1], problem) for part, (_, problem) in zip(parts, completions, strict=True) if len(part) > 1]
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
    k = 2, 4, 8, … and the number of samples, with `_ci_low` and `_ci_high`. `truncation_rate` and `unknown_rate` are
    shares of completions. `text_statistics` gives the others.

    Args:
        rows: Completions by problem, then sample, `num_samples` of each.
        num_samples: Samples of each problem.
    """
    correct = verdict_matrix(rows, num_samples)
    metrics = flatten("pass_at_1", pass_at_1(correct))
    if num_samples > 1:
        powers = {2**exponent for exponent in range(1, num_samples.bit_length())}
        for k in sorted(powers | {num_samples}):
            metrics |= flatten(f"pass_at_{k}", pass_at_k(correct, k))
    metrics["truncation_rate"] = float(np.mean([row.finish_reason == "length" for row in rows]))
    metrics["unknown_rate"] = float(np.mean([row.verdict == Verdict.UNKNOWN for row in rows]))
    metrics |= text_statistics([row.text for row in rows], [row.num_tokens for row in rows])
    metrics["num_problems"], metrics["num_samples"] = float(len(correct)), float(num_samples)
    return metrics


def score_with_tools(rows: Sequence[ResultRow], num_samples: int) -> dict[str, float]:
    """`tools_pass_at_1` with its interval: pass@1 if proofs that tools can mend were right; arguments as `score`."""
    proved = [row.verdict == Verdict.RIGHT or row.reason.startswith(WITH_TOOLS) for row in rows]
    return flatten("tools_pass_at_1", pass_at_1(np.array(proved, dtype=np.bool_).reshape(-1, num_samples)))


def explain_zero(result: EvaluationResult) -> str | None:
    """What most of the failed completions have in common, in words; None where the score is not about 0.

    Each counts once: as cut off, else as without a readable answer (unknown), else as wrong.
    """
    if result.metrics["pass_at_1"] >= _ABOUT_ZERO or "sampling" not in result.protocol:
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


def text_statistics(texts: Sequence[str], num_tokens: Sequence[int]) -> dict[str, float]:
    """Lengths in tokens, and how often "Wait" is said (the paper's Fig. 8). A cut completion counts with what it has.

    Args:
        texts: One or more completions.
        num_tokens: Length of each.

    Returns:
        `mean_tokens`, the quantiles `tokens_p10`, `tokens_p50` and `tokens_p90`, `waits_per_completion`, and
        `waits_per_1k_tokens` over all completions together (0 where there is no token).
    """
    lengths = np.asarray(num_tokens, dtype=np.float64)
    waits = sum(len(_WAIT.findall(text)) for text in texts)
    quantiles = {f"tokens_p{q}": float(np.percentile(lengths, q)) for q in (10, 50, 90)}
    rate = 1000 * waits / lengths.sum() if lengths.sum() else 0.0
    means = {"mean_tokens": float(lengths.mean()), "waits_per_completion": waits / len(texts)}
    return means | quantiles | {"waits_per_1k_tokens": float(rate)}
