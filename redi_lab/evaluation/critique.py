"""Does a model see whether a trace is right, and which of its steps is the first wrong one? Can it put that right?

    judge = StepJudge(traces, "boxed")      # right: the reply names the first wrong step, or 0 where none is
    critique(criticised, traces)["step_f1"]     # with what chance gets
    correction(corrected, traces)["gain"]   # P(right | the trace was wrong) − P(wrong | it was right)

After VISCO (arXiv 2412.02172), for text alone. A reply that names no step is unknown: it finds nothing, and is not
right either. Several traces of one problem are one unit of the intervals.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from redi_lab.data.marked import MarkedTrace
from redi_lab.evaluation.metrics import Estimate, Values, ratio
from redi_lab.evaluation.results import EvaluationResult, content_digest
from redi_lab.grading.extraction import Answers, extract_answer
from redi_lab.grading.grader import Grade, Verdict
from redi_lab.verifiers.base import Posed

Flags = NDArray[np.bool_]


@final
class StepJudge:
    """See `redi_lab.verifiers.base.Judge`; right is the number of the first wrong step, or 0 where none is.

    Args:
        traces: all that can be asked about.
        answers: where the number stands.
    """

    def __init__(self, traces: Iterable[MarkedTrace], answers: Answers) -> None:
        self._traces = {trace.id: trace for trace in traces}
        self._answers = answers
        marks = [(name, len(trace.steps), trace.first_wrong) for name, trace in self._traces.items()]
        self.settings: Mapping[str, Any] = {
            "name": "first wrong step",
            "answers": answers,
            "marks_sha256": content_digest(marks),
        }

    def check(self, problems: Iterable[Posed]) -> None:
        """Any trace can be asked about."""

    def grade_all(self, pairs: Iterable[tuple[str, Posed]]) -> list[Grade]:
        """See `Judge`; unknown is a reply without a number, with several, or with one that is no step's."""
        return [self._grade(text, self._traces[problem.id]) for text, problem in pairs]

    def _grade(self, text: str, trace: MarkedTrace) -> Grade:
        answer = extract_answer(text, self._answers)
        numbers = re.findall(r"\d+", answer or "", re.ASCII)
        if len(numbers) != 1 or len(numbers[0]) > 9 or int(numbers[0]) > len(trace.steps):
            return Grade(Verdict.UNKNOWN, "names no step", answer)
        named = int(numbers[0])
        return Grade(Verdict.RIGHT if named == trace.first_wrong else Verdict.WRONG, "by its number", str(named))


def critique(result: EvaluationResult, traces: Mapping[str, MarkedTrace]) -> dict[str, Estimate]:
    """How well replies find wrong traces and first wrong steps.

    F1 of the incorrect class is Σ 2·hits / Σ (named + marked), so a ratio of sums like any other.

    Args:
        result: graded by `StepJudge`.
        traces: by id.

    Returns:
        `answer_f1`, of wrong traces; `step_f1`, of first wrong steps; `unread`, the share of replies that name no step;
        and `chance_answer_f1` and `chance_step_f1`: what one gets, on average, who calls every trace wrong and names a
        step of it at random. Without those that have no case.
    """
    asked = [traces[row.id] for row in result.rows]
    is_read = np.array([row.verdict != Verdict.UNKNOWN for row in result.rows])
    named = np.array([int(row.answer or 0) if row.verdict != Verdict.UNKNOWN else 0 for row in result.rows])
    marked = np.array([trace.first_wrong for trace in asked])
    found, wrong = named > 0, marked > 0
    by_chance = wrong / np.array([len(trace.steps) for trace in asked])
    shares = {
        "answer_f1": (2 * (found & wrong), found * 1 + wrong),
        "step_f1": (2 * (found & (named == marked)), found * 1 + wrong),
        "unread": (~is_read, np.ones(len(asked))),
        "chance_answer_f1": (2 * wrong, 1 + wrong),
        "chance_step_f1": (2 * by_chance, 1 + wrong),
    }
    made = {name: _share(*parts, asked, result) for name, parts in shares.items()}
    return {name: estimate for name, estimate in made.items() if estimate is not None}


def correction(result: EvaluationResult, traces: Mapping[str, MarkedTrace]) -> dict[str, Estimate]:
    """What becomes of wrong and of right traces.

    Args:
        result: what follows the critiques, graded by the problems' answers.
        traces: by id.

    Returns:
        `wrong_to_right`, `wrong_to_unknown`, `right_to_wrong` and `right_to_unknown`, shares by what the trace was;
        and `gain`, the first less the third. Without those that have no case.
    """
    asked, found = [traces[row.id] for row in result.rows], dict[str, Estimate]()
    wrong, now = np.array([trace.first_wrong > 0 for trace in asked]), np.array([row.verdict for row in result.rows])
    for name, before in (("wrong", wrong), ("right", ~wrong)):
        for verdict in (Verdict.RIGHT if name == "wrong" else Verdict.WRONG, Verdict.UNKNOWN):
            estimate = _share(before & (now == verdict), before * 1, asked, result)
            if estimate is not None:
                found[f"{name}_to_{verdict}"] = estimate
    if {"wrong_to_right", "right_to_wrong"} <= found.keys():
        mended, spoilt = found["wrong_to_right"], found["right_to_wrong"]
        influence = [
            _by_problem(before & (now == verdict), asked) - estimate.value * _by_problem(before * 1, asked)
            for before, verdict, estimate in ((wrong, Verdict.RIGHT, mended), (~wrong, Verdict.WRONG, spoilt))
        ]
        found["gain"] = _difference(mended, spoilt, *influence)
    return found


def _difference(a: Estimate, b: Estimate, of_a: Values, of_b: Values) -> Estimate:
    """The first less the second, with the interval that follows from theirs.

    Source: Zou and Donner 2008 (MOVER), with the correlation of the two shares over problems, of which `of_a` and
    `of_b` are the influence.
    """
    spread = math.sqrt(float(np.square(of_a).sum() * np.square(of_b).sum()))
    correlation = float(of_a @ of_b) / spread if spread else 0.0
    value = a.value - b.value

    def half(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x**2 + y**2 - 2 * correlation * x * y))

    low = max(-1.0, value - half(a.value - a.ci_low, b.ci_high - b.value))
    high = min(1.0, value + half(a.ci_high - a.value, b.value - b.ci_low))
    return Estimate(value, low, high, None, max(a.num_problems, b.num_problems), a.num_samples)


def _share(
    hits: NDArray[Any], counts: NDArray[Any], asked: Sequence[MarkedTrace], result: EvaluationResult
) -> Estimate | None:
    """A ratio of what was counted on each row, over problems."""
    return ratio(_by_problem(hits, asked), _by_problem(counts, asked), int(result.metrics["num_samples"]))


def _by_problem(values: NDArray[Any], asked: Sequence[MarkedTrace]) -> Values:
    """Sums over the rows of each problem."""
    places = {problem: place for place, problem in enumerate(dict.fromkeys(trace.problem for trace in asked))}
    return np.bincount([places[trace.problem] for trace in asked], weights=values).astype(np.float64)
