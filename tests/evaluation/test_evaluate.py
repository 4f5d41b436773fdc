from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self

import pytest

from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem
from redi_lab.evaluation.evaluate import Evaluation
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.evaluation.scoring import UNFINISHED_THOUGHT
from redi_lab.generation.engines import Engine, SamplingParams
from redi_lab.generation.transformers_engine import TransformersEngine
from redi_lab.grading.grader import Grade, Verdict
from redi_lab.verifiers.base import WITH_TOOLS, Limits, Posed, Verifier
from redi_lab.verifiers.math import MathVerifier
from tests.evaluation.scripted_engine import ScriptedEngine

BENCHMARK = Benchmark.of("sums", [EvalProblem("a", "1 2", ("3",)), EvalProblem("b", "2 2", ("4", "four"))])
SAMPLING = SamplingParams(temperature=1.0, top_p=1.0, max_new_tokens=5, num_samples=2, seed=0)
TEXTS: dict[tuple[int, ...], list[str]] = {
    (1, 2): ["A: 3", "", "A: 5", "A: 3"],
    (2, 2): ["A: 4", "A: four", "A: 4", "A: 1"],
}


def encode(problem: str) -> list[int]:
    return [int(word) for word in problem.split()]


def scripted() -> ScriptedEngine:
    return ScriptedEngine(lambda prompt, sample: TEXTS[prompt[-2:]][sample])


def make(
    engine: Engine,
    checkpoint: Path,
    folder: Path,
    *,
    sampling: SamplingParams = SAMPLING,
    encoder: Callable[[str], list[int]] = encode,
    extras: Mapping[str, object] | None = None,
    benchmark: Benchmark = BENCHMARK,
    require_closed_thought: bool = False,
    grader: Verifier | None = None,
) -> Evaluation:
    extras = extras or {"prompt": "plain"}
    return Evaluation(
        engine,
        checkpoint,
        benchmark,
        encoder,
        sampling,
        grader or MathVerifier(Limits()),
        extras,
        folder,
        require_closed_thought=require_closed_thought,
    )


def test_rows_and_metrics_by_hand(checkpoint: Path, tmp_path: Path) -> None:
    """Right are a/0, b/0 and b/1: pass@1 3/4, P = 1 and 1/2, SEM = (1/4)·√2/√2 = 1/4; pass@2 is 1."""
    result = make(scripted(), checkpoint, tmp_path).result()
    assert [(row.id, row.sample, row.verdict, row.answer) for row in result.rows] == [
        ("a", 0, "right", "3"),
        ("a", 1, "unknown", None),
        ("b", 0, "right", "4"),
        ("b", 1, "right", "four"),
    ]
    assert result.metrics["pass_at_1"] == 0.75
    assert result.metrics["pass_at_1_sem"] == pytest.approx(0.25)
    assert result.metrics["pass_at_2"] == 1.0
    assert result.metrics["pass_at_1_ci_low"] < 0.75 < result.metrics["pass_at_1_ci_high"]
    assert result.metrics["unknown_rate"] == result.metrics["truncation_rate"] == 0.25
    assert result.metrics["mean_tokens"] == 2.0
    assert (result.metrics["num_problems"], result.metrics["num_samples"]) == (2.0, 2.0)


def test_a_benchmark_describes_its_completions_whether_drawn_or_read(checkpoint: Path, tmp_path: Path) -> None:
    plain = make(scripted(), checkpoint, tmp_path).result()
    described = replace(
        BENCHMARK, describe=lambda texts, _: {"answered": sum("A:" in text for text in texts) / len(texts)}
    )
    read = make(scripted(), checkpoint, tmp_path, benchmark=described).result()
    drawn = make(scripted(), checkpoint, tmp_path / "anew", benchmark=described).result()
    assert plain.key == read.key == drawn.key
    assert read.metrics == drawn.metrics == {**plain.metrics, "answered": 0.75}


class Lengths:
    """Says right of a text as long as its problem, and of longer ones that a tool mends them."""

    def __init__(self, **settings: object) -> None:
        self.settings: Mapping[str, object] = {"name": "lengths", **settings}

    def check(self, problems: Iterable[Posed]) -> None:
        """All are taken."""

    def grade_all(self, pairs: Iterable[tuple[str, Posed]]) -> list[Grade]:
        return [
            Grade(Verdict.RIGHT, "length", text)
            if len(text) == len(problem.problem)
            else Grade(Verdict.WRONG, f"{WITH_TOOLS}: cut" if len(text) > len(problem.problem) else "length", text)
            for text, problem in pairs
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


def test_the_verifier_sees_the_problems_and_decides_the_result(checkpoint: Path, tmp_path: Path) -> None:
    engine = ScriptedEngine(lambda prompt, sample: ("</think>" if prompt == (2, 2) else "") + "3 5")
    plain = make(engine, checkpoint, tmp_path, grader=Lengths()).result()
    assert [row.verdict for row in plain.rows[::2]] == ["right", "wrong"]
    assert "tools_pass_at_1" not in plain.metrics
    closed = make(engine, checkpoint, tmp_path, grader=Lengths(), require_closed_thought=True).result()
    assert [(row.verdict, row.reason) for row in closed.rows[::2]] == [
        ("wrong", UNFINISHED_THOUGHT),
        ("right", "length"),
    ]
    assert closed.protocol["grader"] == {"name": "lengths", "require_closed_thought": True}
    graded = make(engine, checkpoint, tmp_path).result()
    assert len({plain.key, closed.key, graded.key}) == 3


def test_what_tools_mend_is_counted_apart(checkpoint: Path, tmp_path: Path) -> None:
    """Of two problems with two samples, one sample each is right, and another of the second is mended."""
    texts: dict[tuple[int, ...], list[str]] = {(1, 2): ["3 5", "3"], (2, 2): ["3 5", "3 5 7"]}
    engine = ScriptedEngine(lambda prompt, sample: texts[prompt][sample])
    metrics = make(engine, checkpoint, tmp_path, grader=Lengths(tactics=["cut"])).result().metrics
    assert (metrics["pass_at_1"], metrics["tools_pass_at_1"]) == (0.5, 0.75)
    assert metrics["tools_pass_at_1_ci_low"] < 0.75 < metrics["tools_pass_at_1_ci_high"]
    assert metrics["unknown_rate"] == 0.0
    assert len(engine.requests) == 1  # the samples are the same


def test_the_same_evaluation_is_looked_up(checkpoint: Path, tmp_path: Path) -> None:
    engine = scripted()
    first = make(engine, checkpoint, tmp_path).result()
    assert make(engine, checkpoint, tmp_path).result() == first
    assert len(engine.requests) == 1


def test_any_change_is_another_evaluation_and_draws_again_only_if_samples_change(
    checkpoint: Path, tmp_path: Path
) -> None:
    engine = scripted()
    harder = Benchmark.of("sums", [EvalProblem("a", "1 2", ("4",)), EvalProblem("b", "2 2", ("4",))])
    evaluations = [
        make(engine, checkpoint, tmp_path),
        make(engine, checkpoint, tmp_path, extras={"prompt": "said otherwise"}),
        make(engine, checkpoint, tmp_path, benchmark=harder),
        make(engine, checkpoint, tmp_path, require_closed_thought=True),
        make(engine, checkpoint, tmp_path, encoder=lambda problem: [0, *encode(problem)]),
        make(engine, checkpoint, tmp_path, sampling=replace(SAMPLING, seed=1)),
    ]
    results: list[EvaluationResult] = []
    requests = []
    for evaluation in evaluations:
        results.append(evaluation.result())
        requests.append(len(engine.requests))
    assert len({result.key for result in results}) == 6
    assert requests == [1, 1, 1, 1, 2, 3]
    assert results[2].metrics["pass_at_1"] == 0.25
    assert {row.reason for row in results[3].rows} == {UNFINISHED_THOUGHT}
    assert results[3].metrics["pass_at_1"] == results[3].metrics["unknown_rate"] == 0.0


def test_more_samples_keep_the_first(checkpoint: Path, tmp_path: Path) -> None:
    engine = scripted()
    two = make(engine, checkpoint, tmp_path).result()
    four = make(engine, checkpoint, tmp_path, sampling=replace(SAMPLING, num_samples=4)).result()
    assert [indices for _, indices in engine.requests] == [range(2), range(2, 4)]
    assert [row for row in four.rows if row.sample < 2] == list(two.rows)
    assert [row.text for row in four.rows if row.sample >= 2] == ["A: 5", "A: 3", "A: 4", "A: 1"]
    assert four.key != two.key
    assert four.metrics["num_samples"] == 4.0


def test_rows_of_any_range(checkpoint: Path, tmp_path: Path) -> None:
    evaluation = make(scripted(), checkpoint, tmp_path)
    rows = evaluation.rows(first_sample=1, num_samples=2)
    assert [(row.id, row.sample, row.verdict) for row in rows] == [
        ("a", 1, "unknown"),
        ("a", 2, "wrong"),
        ("b", 1, "right"),
        ("b", 2, "right"),
    ]


def test_protocol_records_what_decided(checkpoint: Path, tmp_path: Path) -> None:
    protocol = make(scripted(), checkpoint, tmp_path).result().protocol
    sampling = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 5, "num_samples": 2, "seed": 0}
    assert protocol["sampling"] == sampling
    assert protocol["engine"] == {"name": "scripted", "versions": {"script": "1"}, "settings": {}}
    assert protocol["grader"]["name"] == "math-verify"
    assert protocol["grader"]["require_closed_thought"] is False
    assert protocol["prompt"] == "plain"


def test_real_engine_end_to_end(checkpoint: Path, tmp_path: Path) -> None:
    result = make(TransformersEngine(), checkpoint, tmp_path).result()
    assert len(result.rows) == 4
    assert 0 < result.metrics["mean_tokens"] <= 5
    assert result.metrics["unknown_rate"] == 1.0  # a random model states no answer
    assert make(TransformersEngine(), checkpoint, tmp_path).result() == result
    one_by_one = make(TransformersEngine(), checkpoint, tmp_path / "other")
    again = [row for index in range(2) for row in one_by_one.rows(index, 1)]
    assert sorted(again, key=lambda row: (row.id, row.sample)) == list(result.rows)
