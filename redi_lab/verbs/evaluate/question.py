"""`python -m redi_lab evaluate sequential.width=0.02`: draw samples round by round until a question is answered.

    answer = ask(config.sequential, [evaluation], on_progress)
    print(answer.sentence)

Samples are numbered and kept, so those that a later, larger evaluation needs are found again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """A question and its answer.

    Attributes:
        question: The question in words.
        is_difference: Whether it asks about a difference of scores; else about a score.
        confidence: Confidence of the intervals, at all looks together.
        most: Samples of each problem that might have been drawn.
        results: Results of the checkpoint and, if there is one, of its rival, over the samples that were drawn.
        states: What was known at each look; the last one is the answer.
    """

    question: str
    is_difference: bool
    confidence: float
    most: int
    results: tuple[EvaluationResult, ...]
    states: tuple[State, ...]

    @property
    def sentence(self) -> str:
        """The answer, what it rests on, and what it speaks of."""
        last = self.states[-1]
        answer = "Not answered" if last.answer is None else last.answer.capitalize()
        what, form = ("The difference", "+.3f") if self.is_difference else ("The score", ".3f")
        return (
            f"{self.question} {answer}. {what} on these problems is {last.low:{form}} to {last.high:{form}}"
            f" ({self.confidence:.0%} confidence at all looks), after {last.num_samples} of at most {self.most} samples"
            " of each problem."
        )

    def as_dict(self) -> dict[str, Any]:
        """The content of summary.json."""
        rivals = [{"key": r.key, "pass_at_1": r.metrics["pass_at_1"]} for r in self.results[1:]]
        return {
            "question": self.question,
            "answer": self.states[-1].answer,
            "confidence": self.confidence,
            "max_samples": self.most,
            "looks": [asdict(state) for state in self.states],
            "rival": rivals[0] if rivals else None,
        }


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
    shortened = [replace(e, sampling=replace(e.sampling, num_samples=states[-1].num_samples)) for e in evaluations]
    results = tuple(evaluation.result() for evaluation in shortened)
    return Answer(question, settings.better_than is not None, settings.confidence, most, results, tuple(states))
