"""Evaluate one checkpoint on one benchmark: look the result up, else draw the missing samples, grade, score and store.

with MathVerifier(Limits()) as grader:
    evaluation = Evaluation(engine, folder, benchmark, encode, sampling, grader, {"prompt": template}, results_folder)
    result = evaluation.result()
    further = evaluation.rows(first_sample=4, num_samples=4)  # other samples of all problems
result.metrics["pass_at_1"]
redi_lab.evaluation.scoring.verdict_matrix(further, 4)  # shape (problems, 4)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, final

from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.evaluation.results import (
    EvaluationResult,
    ResultRow,
    checkpoint_hash,
    content_digest,
    evaluation_key,
    load_result,
    save_result,
)
from redi_lab.evaluation.samples import Draw, Sample, SampleStore, draw_samples
from redi_lab.evaluation.scoring import grade_completions, score, score_with_tools
from redi_lab.generation.engines import Engine, Progress, SamplingParams
from redi_lab.grading.grader import Grade, Verdict
from redi_lab.redaction import redacted
from redi_lab.verifiers.base import Judge

_MOST_FOLLOW_UPS = 100_000  # of one completion: their sample indices begin at multiples of it


class GradedSample(NamedTuple):
    """A sample, whose it is (indices of the problem in the benchmark, and of the sample), and its grade."""

    problem_index: int
    sample_index: int
    sample: Sample
    grade: Grade


@final
@dataclass(frozen=True)
class Evaluation:
    """One checkpoint on one benchmark under one protocol. Samples and results are kept in `folder` and found again.

    Attributes:
        engine: What generates.
        checkpoint: Hugging Face folder.
        benchmark: Problems and accepted answers.
        encode: From a problem's text to the token ids of its prompt. The ids enter the protocol by their hash, so a
            changed template is a different evaluation even if `protocol_extras` does not say so.
        sampling: How completions are drawn.
        grader: What grades them.
        protocol_extras: Further JSON values of the protocol, such as the prompt template.
        folder: Where results are kept, and below it, in `samples`, what is drawn.
        chunk_completions: See `redi_lab.evaluation.samples.Draw`.
        require_closed_thought: See `redi_lab.evaluation.scoring.grade_completions`.
    """

    engine: Engine
    checkpoint: Path
    benchmark: Benchmark
    encode: Callable[[str], list[int]]
    sampling: SamplingParams
    grader: Judge
    protocol_extras: Mapping[str, Any]
    folder: Path
    chunk_completions: int = 4096
    require_closed_thought: bool = False

    def result(self, on_progress: Progress | None = None) -> EvaluationResult:
        """Return the stored result of this very evaluation, or make and store it.

        Args:
            on_progress: Called with (completions there, completions wanted) while generating.

        Raises:
            UserError: See the engine, `checkpoint_hash` and `SampleStore`.
            RuntimeError: The engine returned other completions than were asked for.
        """
        stored = load_result(self.folder, self.key)
        if stored is not None:  # its metrics may come from an earlier version; its rows stay the same
            return replace(stored, metrics=self._metrics(stored.rows))
        rows = self.rows(self.sampling.first_sample, self.sampling.num_samples, on_progress)
        metrics, benchmark = self._metrics(rows), self.benchmark
        result = EvaluationResult(
            self.key, self.protocol, benchmark.name, benchmark.digest, self.checkpoint_hash, metrics, tuple(rows)
        )
        save_result(self.folder, result)
        return result

    def rows(
        self,
        first_sample: int,
        num_samples: int,
        on_progress: Progress | None = None,
        problems: Sequence[int] | None = None,
    ) -> list[ResultRow]:
        """Graded samples, in whatever number; only missing ones are drawn.

        Args:
            first_sample: Index of the first sample of each problem.
            num_samples: How many samples of each problem.
            on_progress: Called with (completions there, completions wanted) while generating.
            problems: Indices in the benchmark of those that are wanted; None for all.

        Returns:
            By problem, then sample.

        Raises:
            UserError: As `result`.
            RuntimeError: As `result`.
        """
        return [
            ResultRow(
                id=self.benchmark.problems[problem].id,
                sample=index,
                text=sample.text,
                finish_reason=sample.finish_reason,
                verdict=grade.verdict.value,
                reason=grade.reason,
                answer=grade.answer,
                num_tokens=sample.num_tokens,
            )
            for problem, index, sample, grade in self.graded(first_sample, num_samples, on_progress, problems)
        ]

    def graded(
        self,
        first_sample: int,
        num_samples: int,
        on_progress: Progress | None = None,
        problems: Sequence[int] | None = None,
    ) -> list[GradedSample]:
        """As `rows`, with the same arguments and all that is kept of a sample."""
        sampling = replace(self.sampling, first_sample=first_sample, num_samples=num_samples)
        draw = self._draw(sampling, on_progress, problems)
        [drawn] = draw_samples(self.engine, self.checkpoint, [draw])
        samples = [
            (problem, index, sample)
            for problem, of_problem in zip(draw.wanted, drawn, strict=True)
            for index, sample in enumerate(of_problem, start=first_sample)
        ]
        texts = [(sample.text, self.benchmark.problems[problem]) for problem, _, sample in samples]
        grades = grade_completions(self.grader, texts, require_closed_thought=self.require_closed_thought)
        return [GradedSample(*sample, grade) for sample, grade in zip(samples, grades, strict=True)]

    def _draw(
        self, sampling: SamplingParams, on_progress: Progress | None, problems: Sequence[int] | None = None
    ) -> Draw:
        identity = {"checkpoint_hash": self.checkpoint_hash, **self._drawing}
        if sampling.wants_token_logps:
            identity["token_logps"] = True
        store, report = SampleStore(self.folder / "samples", identity), on_progress or (lambda done, total: None)
        return Draw(self._prompts, sampling, store, self.chunk_completions, report, problems)

    def _metrics(self, rows: Sequence[ResultRow]) -> dict[str, float]:
        describe, further = self.benchmark.describe, {}
        if describe is not None:
            problems = {problem.id: problem.problem for problem in self.benchmark.problems}
            further = dict(describe([row.text for row in rows], [problems[row.id] for row in rows]))
        if self.grader.settings.get("tactics"):
            further |= score_with_tools(rows, self.sampling.num_samples)
        return score(rows, self.sampling.num_samples) | further

    @cached_property
    def checkpoint_hash(self) -> str:
        """See `redi_lab.evaluation.results.checkpoint_hash`."""
        return checkpoint_hash(self.checkpoint)

    @cached_property
    def key(self) -> str:
        """Names the result."""
        return evaluation_key(self.checkpoint_hash, self.protocol, self.benchmark.digest)

    @cached_property
    def protocol(self) -> dict[str, Any]:
        """Everything that decides the result, except checkpoint and benchmark."""
        own = {
            "sampling": {"num_samples": self.sampling.num_samples, **self._drawing["sampling"]},
            "engine": self._drawing["engine"],
            "grader": self._grading,
            "prompts_sha256": self._drawing["prompts_sha256"],
        }
        return dict(self.protocol_extras) | own

    @property
    def _grading(self) -> dict[str, Any]:
        """What decides a verdict, for the protocol."""
        return {**self.grader.settings, "require_closed_thought": self.require_closed_thought}

    @cached_property
    def _prompts(self) -> list[list[int]]:
        return [self.encode(problem.problem) for problem in self.benchmark.problems]

    @cached_property
    def _drawing(self) -> dict[str, Any]:
        """Everything that decides a sample, except the checkpoint and its indices."""
        sampling, engine = self.sampling, self.engine
        return {
            "sampling": {
                "temperature": sampling.temperature,
                "top_p": sampling.top_p,
                "max_new_tokens": sampling.max_new_tokens,
                "seed": sampling.seed,
            },
            "engine": {"name": engine.name, "versions": dict(engine.versions), "settings": redacted(engine.settings)},
            "prompts_sha256": content_digest(self._prompts),
        }


def draw_together(evaluations: Sequence[Evaluation], on_progress: Sequence[Progress]) -> None:
    """Draw what the results of several evaluations will need, as one queue: none waits for the last of another.

    Args:
        evaluations: Of one checkpoint with one engine.
        on_progress: For each, as for `Evaluation.result`.

    Raises:
        UserError: As `Evaluation.result`.
        RuntimeError: As `Evaluation.result`.
    """
    draws = {}
    for evaluation, report in zip(evaluations, on_progress, strict=True):
        if load_result(evaluation.folder, evaluation.key) is None:
            draw = evaluation._draw(evaluation.sampling, report)
            draws[draw.store.path] = draw  # two may have the same prompts, under other answers
    if draws:
        draw_samples(evaluations[0].engine, evaluations[0].checkpoint, list(draws.values()))


def summed(on_progress: Progress, number: int) -> list[Progress]:
    """Functions for this many draws to report to, which pass on what all of them have together."""
    done, totals = [0] * number, [0] * number

    def report(index: int, count: int, total: int) -> None:
        done[index], totals[index] = count, total
        on_progress(sum(done), sum(totals))

    return [partial(report, index) for index in range(number)]


def follow_up(
    evaluation: Evaluation,
    before: EvaluationResult,
    prompts: Sequence[str],
    on_progress: Progress,
    *,
    only_wrong: bool = False,
) -> EvaluationResult:
    """Go on after every completion of another result, `evaluation.sampling.num_samples` times each.

    More completions later, there or here, keep those that are there.

    Args:
        evaluation: On the same problems; its `protocol_extras` say what is asked, and `encode` takes the prompts.
        before: The result.
        prompts: All that stands before a new completion, for each row of `before`.
        on_progress: As for `Evaluation.result`.
        only_wrong: Only after wrong completions; the others stand for what would follow them.

    Returns:
        The result, stored like any other; sample j × `num_samples` + i of a problem is the i-th after its sample j.

    Raises:
        UserError: As `Evaluation.result`.
        RuntimeError: As `Evaluation.result`.
    """
    number, each = int(before.metrics["num_samples"]), evaluation.sampling.num_samples
    whole = replace(
        evaluation,
        sampling=replace(evaluation.sampling, num_samples=number * each),
        protocol_extras={**evaluation.protocol_extras, "after": before.key},
    )
    parts = [_after_sample(evaluation, prompts[index::number], index) for index in range(number)]
    protocol = whole.protocol | {"prompts_sha256": content_digest([part._prompts for part in parts])}
    key = evaluation_key(whole.checkpoint_hash, protocol, whole.benchmark.digest)
    stored = load_result(whole.folder, key)
    if stored is not None:
        return replace(stored, metrics=whole._metrics(stored.rows))
    count, reports = len(whole.benchmark.problems), summed(on_progress, number)
    asked = [
        [i for i in range(count) if not only_wrong or before.rows[i * number + index].verdict == Verdict.WRONG]
        for index in range(number)
    ]
    draws = [
        part._draw(part.sampling, report, problems)
        for part, report, problems in zip(parts, reports, asked, strict=True)
    ]
    draw_samples(whole.engine, whole.checkpoint, list({draw.store.path: draw for draw in draws}.values()))
    rows = [row for row in before.rows for _ in range(each)]
    for index, (part, problems) in enumerate(zip(parts, asked, strict=True)):
        drawn = iter(part.rows(part.sampling.first_sample, each, problems=problems))
        for problem, i in product(problems, range(each)):
            rows[(problem * number + index) * each + i] = next(drawn)
    rows = [replace(row, sample=place % (number * each)) for place, row in enumerate(rows)]
    name, digest, metrics = whole.benchmark.name, whole.benchmark.digest, whole._metrics(rows)
    result = EvaluationResult(key, protocol, name, digest, whole.checkpoint_hash, metrics, tuple(rows))
    save_result(whole.folder, result)
    return result


def _after_sample(evaluation: Evaluation, prompts: Sequence[str], index: int) -> Evaluation:
    """With a prompt of its own for each problem, after its sample of that index."""
    pairs = zip(evaluation.benchmark.problems, prompts, strict=True)
    problems = tuple(replace(problem, problem=prompt) for problem, prompt in pairs)
    return replace(
        evaluation,
        benchmark=replace(evaluation.benchmark, problems=problems),
        # Two samples may be the same text: what follows has other random numbers all the same.
        sampling=replace(evaluation.sampling, first_sample=index * _MOST_FOLLOW_UPS),
    )
