"""`python -m redi_lab evaluate sequential.width=0.02`: the question, its answer in words, numbers and a picture.

answer = ask(config.sequential, [evaluation], on_progress)
print(answer.sentence)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

from omegaconf import DictConfig

from redi_lab.evaluation.evaluate import Evaluation
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.evaluation.sequential import State, better_by, known_to
from redi_lab.evaluation.until_answered import evaluate_until_answered
from redi_lab.generation.engines import Progress


@final
@dataclass(frozen=True)
class Answer:
    """What came out of asking.

    Attributes:
        question: In words.
        target: The difference that it asks about; None where it asks for a score.
        confidence: Of the intervals, at all looks together.
        most: Samples of each problem that might have been drawn.
        results: Of the checkpoint and, if there is one, of its rival, over the samples that were drawn.
        states: What was known at each look; the last one is the answer.
    """

    question: str
    target: float | None
    confidence: float
    most: int
    results: tuple[EvaluationResult, ...]
    states: tuple[State, ...]

    @property
    def sentence(self) -> str:
        """The answer, what it rests on, and what it speaks of."""
        last = self.states[-1]
        answer = "Not answered" if last.answer is None else last.answer.capitalize()
        what, form = ("The score", ".3f") if self.target is None else ("The difference", "+.3f")
        return (
            f"{self.question} {answer}. {what} on these problems is {last.low:{form}} to {last.high:{form}}"
            f" ({self.confidence:.0%} confidence at all looks), after {last.num_samples} of at most {self.most} samples"
            " of each problem."
        )

    def as_dict(self) -> dict[str, Any]:
        """For summary.json."""
        rivals = [{"key": r.key, "pass_at_1": r.metrics["pass_at_1"]} for r in self.results[1:]]
        return {
            "question": self.question,
            "answer": self.states[-1].answer,
            "confidence": self.confidence,
            "max_samples": self.most,
            "looks": [asdict(state) for state in self.states],
            "rival": rivals[0] if rivals else None,
        }

    def metrics(self) -> dict[str, float]:
        """For the tracked run: the ends of the last interval."""
        return {"sequential_low": self.states[-1].low, "sequential_high": self.states[-1].high}


def ask(settings: DictConfig, evaluations: Sequence[Evaluation], on_progress: Progress) -> Answer:
    """Draw samples until the question that `settings` puts is answered.

    Args:
        settings: the group `sequential`, with `width` or `better_than`.
        evaluations: of the checkpoint, and of its rival where the question has one.
        on_progress: called with (completions there, completions wanted at most).
    """
    most = evaluations[0].sampling.num_samples
    protocol: dict[str, Any] = {"max_samples": most, "confidence": settings.confidence}
    if settings.better_than is None:
        question = f"Is pass@1 known to ± {settings.width:g}?"
        target, rule = None, partial(known_to, width=settings.width, **protocol)
    else:
        margin = f"by more than {settings.delta:g} " if settings.delta else ""
        question = f"Is pass@1 better {margin}than that of {settings.better_than}?"
        target, rule = settings.delta, partial(better_by, delta=settings.delta, **protocol)
    results, states = evaluate_until_answered(evaluations, rule, on_progress)
    return Answer(question, target, settings.confidence, most, tuple(results), tuple(states))


def plot_looks(answer: Answer, destination: Path) -> Path:
    """Draw how the interval closes, look by look.

    Args:
        answer: what to draw; a dashed line marks what the question asks about.
        destination: a PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3.5), layout="constrained")
    axes = figure.add_subplot()
    counts = [state.num_samples for state in answer.states]
    centres = [(state.low + state.high) / 2 for state in answer.states]
    axes.errorbar(
        counts, centres, yerr=[(s.high - s.low) / 2 for s in answer.states], fmt="none", color="#0072B2", capsize=5
    )
    if answer.target is not None:
        axes.axhline(answer.target, color="#D55E00", linestyle="--", linewidth=1)
    axes.set_xlim(0, answer.most + 1)
    axes.set_xlabel("samples of each problem")
    axes.set_ylabel("pass@1" if answer.target is None else "difference of pass@1")
    axes.set_title(answer.question, loc="left", fontsize=10)
    axes.grid(alpha=0.3)
    figure.savefig(destination, dpi=150)
    return destination
