"""Rollouts from the beginnings of wrong traces: which there are, which are wanted next, and what came of them."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

from omegaconf import DictConfig

from redi_lab.curation.steps import Split, first_wrong, next_place, split
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.evaluation.benchmarks import EvalProblem
from redi_lab.evaluation.evaluate import Evaluation
from redi_lab.evaluation.scoring import grade_completions
from redi_lab.generation.engines import Progress
from redi_lab.grading.grader import Grade, Verdict
from redi_lab.verifiers.base import Judge, Posed

Tallies = Mapping[int, Counter[Verdict]]
"""Index of a prefix → verdicts of its rollouts."""


@final
@dataclass(frozen=True)
class WrongTrace:
    """A wrong trace in steps.

    Attributes:
        row: index of its problem.
        generation: its index among the problem's.
        ends: of its steps, in characters.
        prefixes: the problem alone, then with one step, two, … all but the last; indices into `Prefixes.prompts`.
    """

    row: int
    generation: int
    ends: tuple[int, ...]
    prefixes: tuple[int, ...]

    def counts(self, tallies: Tallies) -> dict[int, tuple[int, int]]:
        """Right and wrong rollouts by number of steps, of the prefixes that have any."""
        found = {place: tallies[prefix] for place, prefix in enumerate(self.prefixes) if prefix in tallies}
        return {place: (tally[Verdict.RIGHT], tally[Verdict.WRONG]) for place, tally in found.items()}


@final
class Prefixes:
    """Prompts that end within a trace, each once. As a `Judge` it grades prefix and rollout as one text.

    Args:
        grader: gives the verdicts.
        require_closed_thought: see `grade_completions`.
    """

    def __init__(self, grader: Judge, *, require_closed_thought: bool) -> None:
        self._grader, self._require_closed_thought = grader, require_closed_thought
        self._known: dict[tuple[int, tuple[int, ...]], int] = {}
        self._begun: list[tuple[EvalProblem, str]] = []
        self.prompts: list[list[int]] = []
        self.problems: list[EvalProblem] = []

    def cut(
        self, row: int, generation: int, problem: EvalProblem, text: str, encoder: TraceEncoder, rule: Split
    ) -> WrongTrace:
        """A trace with its prefixes. They end with a token: the last that ends within the step.

        Args:
            row: see `WrongTrace`.
            generation: see `WrongTrace`.
            problem: that it is of.
            text: of the trace.
            encoder: writes prompts and reads traces.
            rule: see `split`.
        """
        ends, prompt = split(text, rule), encoder.prompt_ids(problem.problem)
        ids, (last,) = encoder.completion_ids(text)[:-1], encoder.last_characters([text])
        numbers = [0, *(bisect_left(last, end, hi=len(ids)) for end in ends[:-1])]
        return WrongTrace(
            row,
            generation,
            ends,
            tuple(self._add(row, problem, prompt + ids[:n], text[: last[n - 1] + 1] if n else "") for n in numbers),
        )

    def _add(self, row: int, problem: EvalProblem, prompt: list[int], text: str) -> int:
        number = self._known.setdefault((row, tuple(prompt)), len(self.prompts))
        if number == len(self.prompts):
            self.prompts.append(prompt)
            self.problems.append(EvalProblem(str(number), str(number), problem.answers))
            self._begun.append((problem, text))
        return number

    def encode(self, problem: str) -> list[int]:
        """The prompt of one of `problems`."""
        return self.prompts[int(problem)]

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides a verdict."""
        return {**self._grader.settings, "graded": "prefix and rollout", "closed": self._require_closed_thought}

    def check(self, problems: Iterable[Posed]) -> None:
        """See `Judge`; it is the problems behind the prefixes that are looked at."""
        self._grader.check(problem for problem, _ in self._begun)

    def grade_all(self, pairs: Iterable[tuple[str, Posed]]) -> list[Grade]:
        """A verdict for each rollout, in order."""
        begun = ((self._begun[int(prefix.id)], text) for text, prefix in pairs)
        whole = [(before + text, problem) for (problem, before), text in begun]
        return grade_completions(self._grader, whole, require_closed_thought=self._require_closed_thought)


def roll_out(
    evaluation: Evaluation, traces: Sequence[WrongTrace], settings: DictConfig, on_progress: Progress
) -> Tallies:
    """Roll out what is wanted until nothing is.

    Args:
        evaluation: of the prefixes.
        traces: whose prefixes they are.
        settings: the group steps.
        on_progress: called with (rollouts there, rollouts wanted as far as is known).
    """
    tallies: dict[int, Counter[Verdict]] = {}
    number = evaluation.sampling.num_samples
    while asked := sorted({prefix for one in traces for prefix in _wanted(one, tallies, settings, number)}):
        before = number * len(tallies)

        def report(done: int, total: int, before: int = before) -> None:
            on_progress(before + done, before + total)

        for one in evaluation.graded(evaluation.sampling.first_sample, number, report, asked):
            tallies.setdefault(one.problem_index, Counter())[one.grade.verdict] += 1
    return tallies


def _wanted(trace: WrongTrace, tallies: Tallies, settings: DictConfig, number: int) -> Sequence[int]:
    """The prefixes of a trace from which to roll out now."""
    missing = [prefix for prefix in trace.prefixes if prefix not in tallies]
    if settings.search == "all":
        return missing
    num_done = number * (len(trace.prefixes) - len(missing))
    if settings.max_rollouts is not None and num_done + number > settings.max_rollouts:
        return []
    counts = trace.counts(tallies)
    belief = first_wrong(counts, len(trace.ends), settings.recovery)
    place = None if counts and belief.max() >= settings.confidence else next_place(belief, counts)
    return [] if place is None else [trace.prefixes[place]]
