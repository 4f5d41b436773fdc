"""Evaluate one checkpoint on one benchmark: look the result up, else generate, grade, score and store.

with Grader() as grader:
    result = evaluate(engine, folder, benchmark, encode, sampling, grader, {"prompt": template}, results_folder)
result.metrics["pass_at_1"]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.evaluation.engines import Completion, Engine, Progress, SamplingParams
from redi_lab.evaluation.grading import Grader, Verdict
from redi_lab.evaluation.metrics import Estimate, pass_at_1, pass_at_k
from redi_lab.evaluation.results import (
    EvaluationResult,
    ResultRow,
    checkpoint_hash,
    content_digest,
    evaluation_key,
    load_result,
    save_result,
)


def evaluate(
    engine: Engine,
    checkpoint: Path,
    benchmark: Benchmark,
    encode: Callable[[str], list[int]],
    sampling: SamplingParams,
    grader: Grader,
    protocol_extras: Mapping[str, Any],
    folder: Path,
    on_progress: Progress | None = None,
) -> EvaluationResult:
    """Return the stored result of this very evaluation, or make and store it.

    Args:
        engine: What generates.
        checkpoint: Hugging Face folder.
        benchmark: Problems and accepted answers.
        encode: From a problem's text to the token ids of its prompt. The ids enter the protocol by their hash, so a
            changed template is a different evaluation even where `protocol_extras` does not tell.
        sampling: How completions are drawn.
        grader: What grades them.
        protocol_extras: Further JSON values of the protocol, such as the prompt template in words.
        folder: Where results are kept.
        on_progress: Called with (completions done, completions wanted) while generating.

    Raises:
        UserError: See the engine and `checkpoint_hash`.
        ValueError: `protocol_extras` names a key of the protocol itself.
        RuntimeError: The engine returned other completions than were asked for.
    """
    prompts = [encode(problem.problem) for problem in benchmark.problems]
    protocol = _protocol(engine, sampling, grader, prompts, protocol_extras)
    weights = checkpoint_hash(checkpoint)
    key = evaluation_key(weights, protocol, benchmark.digest)
    stored = load_result(folder, key)
    if stored is not None:
        return stored
    completions = engine.generate(checkpoint, prompts, sampling, on_progress)
    rows = _grade_rows(completions, benchmark, sampling.num_samples, grader)
    metrics = score(rows, sampling.num_samples)
    result = EvaluationResult(key, protocol, benchmark.name, benchmark.digest, weights, metrics, rows)
    save_result(folder, result)
    return result


def score(rows: Sequence[ResultRow], num_samples: int) -> dict[str, float]:
    """Metrics of graded completions, each a finite number.

    `pass_at_1` comes with `_sem` (from two samples on), `_ci_low` and `_ci_high`, `pass_at_k` for k = num_samples
    likewise without SEM; rates are shares of completions: truncated, and with a verdict of unknown.

    Args:
        rows: Completions by problem, then sample, `num_samples` of each.
        num_samples: Samples of each problem.
    """
    verdicts = np.array([row.verdict == Verdict.RIGHT for row in rows], dtype=np.bool_).reshape(-1, num_samples)
    metrics = _flatten("pass_at_1", pass_at_1(verdicts))
    if num_samples > 1:
        metrics |= _flatten(f"pass_at_{num_samples}", pass_at_k(verdicts, num_samples))
    metrics["truncation_rate"] = float(np.mean([row.finish_reason == "length" for row in rows]))
    metrics["unknown_rate"] = float(np.mean([row.verdict == Verdict.UNKNOWN for row in rows]))
    metrics["mean_tokens"] = float(np.mean([row.num_tokens for row in rows]))
    metrics["num_problems"], metrics["num_samples"] = float(len(verdicts)), float(num_samples)
    return metrics


def _flatten(name: str, estimate: Estimate) -> dict[str, float]:
    numbers = {name: estimate.value, f"{name}_ci_low": estimate.ci_low, f"{name}_ci_high": estimate.ci_high}
    return numbers if estimate.sem is None else numbers | {f"{name}_sem": estimate.sem}


def _protocol(
    engine: Engine,
    sampling: SamplingParams,
    grader: Grader,
    prompts: Sequence[Sequence[int]],
    extras: Mapping[str, Any],
) -> dict[str, Any]:
    own = {
        "sampling": asdict(sampling),
        "engine": {"name": engine.name, "versions": dict(engine.versions), "settings": dict(engine.settings)},
        "grader": dict(grader.settings),
        "prompts_sha256": content_digest([list(prompt) for prompt in prompts]),
    }
    clash = sorted(own.keys() & extras.keys())
    if clash:
        raise ValueError(f"protocol_extras must not name {clash}: evaluate() records them itself")
    return own | dict(extras)


def _grade_rows(
    completions: Sequence[Completion], benchmark: Benchmark, num_samples: int, grader: Grader
) -> tuple[ResultRow, ...]:
    wanted = [(problem, sample) for problem in range(len(benchmark.problems)) for sample in range(num_samples)]
    if [(completion.problem_index, completion.sample_index) for completion in completions] != wanted:
        raise RuntimeError(f"the engine must return {len(wanted)} completions by problem, then sample; it did not")
    problems = [benchmark.problems[completion.problem_index] for completion in completions]
    pairs = [(completion.text, problem.answers) for completion, problem in zip(completions, problems, strict=True)]
    return tuple(
        ResultRow(
            id=problem.id,
            sample=completion.sample_index,
            text=completion.text,
            finish_reason=completion.finish_reason,
            verdict=grade.verdict.value,
            reason=grade.reason,
            answer=grade.answer,
            num_tokens=len(completion.token_ids),
        )
        for completion, problem, grade in zip(completions, problems, grader.grade_all(pairs), strict=True)
    )
