"""`python -m redi_lab evaluate sequential.width=0.02`: draw samples round by round until a question is answered.

    answer = ask(config.sequential, [evaluation], on_progress)
    print(answer.sentence)

Samples are numbered and kept, so those that a later, larger evaluation needs are found again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, final

import numpy as np

from redi_lab.evaluation.evaluate import Evaluation
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.evaluation.scoring import verdict_matrix
from redi_lab.evaluation.sequential import State, better_by, known_to, looks
from redi_lab.generation.engines import Progress


@final
@dataclass(frozen=True)
class Answer:
    """The answer to a question.

    Attributes:
        sentence: Question and answer, what the answer rests on, and what it speaks of.
        results: Results of the checkpoint and, if there is one, of its rival, over the samples that were drawn.
        states: What was known at each look; the last one is the answer.
        summary: The content of summary.json.
    """

    sentence: str
    results: tuple[EvaluationResult, ...]
    states: tuple[State, ...]
    summary: Mapping[str, Any]


def ask(settings: Any, evaluations: Sequence[Evaluation], on_progress: Progress) -> Answer:
    """Draw samples until the question that `settings` asks is answered, or until all that are allowed are drawn.

    Args:
        settings: The group `sequential`, with `width` or `better_than`.
        evaluations: The evaluation of the checkpoint, and that of its rival where the question has one, on the same
            benchmark; `sampling.num_samples`, the same for both, is the most samples of each problem that are drawn.
        on_progress: Called with (completions there, completions wanted at most).

    Raises:
        UserError: See `Evaluation.result`.
    """
    most = evaluations[0].sampling.num_samples
    limits: dict[str, Any] = {"max_samples": most, "confidence": settings.confidence}
    rule: Callable[..., State]
    if settings.better_than is None:
        question = f"Is pass@1 known to ± {settings.width:g}?"
        rule = partial(known_to, width=settings.width, **limits)
    else:
        margin = f"by more than {settings.delta:g} " if settings.delta else ""
        question = f"Is pass@1 better {margin}than that of {settings.better_than}?"
        rule = partial(better_by, delta=settings.delta, **limits)
    num_problems = len(evaluations[0].benchmark.problems)
    matrices = [np.empty((num_problems, 0), dtype=np.bool_) for _ in evaluations]
    states: list[State] = []
    done = 0

    def report(done_now: int, _: int) -> None:
        on_progress(done + done_now, num_problems * most * len(evaluations))

    for count in looks(most):
        drawn = matrices[0].shape[1]
        for index, evaluation in enumerate(evaluations):
            rows = evaluation.rows(evaluation.sampling.first_sample + drawn, count - drawn, report)
            done += len(rows)
            matrices[index] = np.hstack([matrices[index], verdict_matrix(rows, count - drawn)])
        states.append(rule(*matrices))
        if states[-1].answer is not None:
            break
    last = states[-1]
    shortened = [replace(e, sampling=replace(e.sampling, num_samples=last.num_samples)) for e in evaluations]
    results = tuple(evaluation.result() for evaluation in shortened)
    summary = {
        "question": question,
        "answer": last.answer,
        "confidence": settings.confidence,
        "max_samples": most,
        "looks": [asdict(state) for state in states],
        "rival": {"key": results[1].key, "pass_at_1": results[1].metrics["pass_at_1"]} if results[1:] else None,
    }
    answer = "Not answered" if last.answer is None else last.answer.capitalize()
    what, form = ("The difference", "+.3f") if results[1:] else ("The score", ".3f")
    sentence = (
        f"{question} {answer}. {what} on these problems is {last.low:{form}} to {last.high:{form}}"
        f" ({settings.confidence:.0%} confidence at all looks), after {last.num_samples} of at most {most} samples of"
        " each problem."
    )
    return Answer(sentence, results, tuple(states), summary)
