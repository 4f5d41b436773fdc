"""Draw samples round by round until a question is answered, or until the most that were allowed are drawn.

    ask = partial(known_to, width=0.02, max_samples=evaluation.sampling.num_samples)
    results, states = evaluate_until_answered([evaluation], ask)
    states[-1].answer, results[0].metrics["pass_at_1"]

Samples are numbered and kept, so those that a later, larger evaluation needs are found again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from redi_lab.evaluation.evaluate import Evaluation
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.evaluation.scoring import verdict_matrix
from redi_lab.evaluation.sequential import State, looks
from redi_lab.generation.engines import Progress


def evaluate_until_answered(
    evaluations: Sequence[Evaluation], ask: Callable[..., State], on_progress: Progress | None = None
) -> tuple[list[EvaluationResult], list[State]]:
    """Evaluate in rounds, the same rounds for all evaluations.

    Args:
        evaluations: One or more, on the same benchmark; `sampling.num_samples`, the same for all, is the most samples
            that are drawn.
        ask: Given the verdicts so far, one matrix (problems, samples) an evaluation, says what is known.
        on_progress: Called with (completions there, completions wanted at most).

    Returns:
        A result of each evaluation, over the samples that were drawn, and what was known at each look.

    Raises:
        UserError: See `Evaluation.result`.
        RuntimeError: See `Evaluation.result`.
    """
    num_problems, most = len(evaluations[0].benchmark.problems), evaluations[0].sampling.num_samples
    matrices = [np.empty((num_problems, 0), dtype=np.bool_) for _ in evaluations]
    states: list[State] = []
    drawn = done = 0
    total = num_problems * most * len(evaluations)
    for count in looks(most):
        for index, evaluation in enumerate(evaluations):
            first = evaluation.sampling.first_sample + drawn
            rows = evaluation.rows(first, count - drawn, on_progress and partial(_shift, on_progress, done, total))
            done += len(rows)
            matrices[index] = np.hstack([matrices[index], verdict_matrix(rows, count - drawn)])
        drawn = count
        states.append(ask(*matrices))
        if states[-1].answer is not None:
            break
    shortened = [replace(e, sampling=replace(e.sampling, num_samples=drawn)) for e in evaluations]
    return [evaluation.result() for evaluation in shortened], states


def _shift(on_progress: Progress, before: int, total: int, done: int, _: int) -> None:
    on_progress(before + done, total)
