from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem
from redi_lab.evaluation.engines import Completion, SamplingParams, TransformersEngine
from redi_lab.evaluation.evaluate import evaluate, score
from redi_lab.evaluation.grading import Grader
from redi_lab.evaluation.results import EvaluationResult, ResultRow

BENCHMARK = Benchmark.of("sums", [EvalProblem("a", "1 2", ("3",)), EvalProblem("b", "2 2", ("4", "four"))])
SAMPLING = SamplingParams(temperature=1.0, top_p=1.0, max_new_tokens=5, num_samples=2, seed=0)


class ScriptedEngine:
    """Says what it was told to, and counts how often it is asked."""

    name = "scripted"
    versions: Mapping[str, str] = {"script": "1"}  # the protocol asks for a plain mapping
    settings: Mapping[str, str | int] = {}

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self.texts = texts
        self.calls = 0

    def generate(
        self,
        checkpoint: Path,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        self.calls += 1
        return [
            Completion(problem, sample, (1, 2), text, "stop" if text else "length")
            for problem, texts in enumerate(self.texts)
            for sample, text in enumerate(texts)
        ]


def encode(problem: str) -> list[int]:
    return [int(word) for word in problem.split()]


def run(
    engine: ScriptedEngine | TransformersEngine,
    checkpoint: Path,
    folder: Path,
    *,
    sampling: SamplingParams = SAMPLING,
    encoder: Callable[[str], list[int]] = encode,
    extras: Mapping[str, object] | None = None,
    benchmark: Benchmark = BENCHMARK,
) -> EvaluationResult:
    with Grader() as grader:
        return evaluate(engine, checkpoint, benchmark, encoder, sampling, grader, extras or {"prompt": "plain"}, folder)


def test_rows_and_metrics_by_hand(checkpoint: Path, tmp_path: Path) -> None:
    """Right are a/0, b/0 and b/1: pass@1 3/4, P = 1 and 1/2, SEM = (1/4)·√2/√2 = 1/4; pass@2 is 1."""
    result = run(ScriptedEngine([["A: 3", ""], ["A: 4", "A: four"]]), checkpoint, tmp_path)
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


def test_the_same_evaluation_is_looked_up(checkpoint: Path, tmp_path: Path) -> None:
    engine = ScriptedEngine([["A: 3", "A: 3"], ["A: 4", "A: 5"]])
    first = run(engine, checkpoint, tmp_path)
    assert run(engine, checkpoint, tmp_path) == first
    assert engine.calls == 1


def test_any_change_is_another_evaluation(checkpoint: Path, tmp_path: Path) -> None:
    engine = ScriptedEngine([["A: 3", "A: 3"], ["A: 4", "A: 5"]])
    run(engine, checkpoint, tmp_path)
    run(engine, checkpoint, tmp_path, extras={"prompt": "other"})
    run(engine, checkpoint, tmp_path, encoder=lambda problem: [0, *encode(problem)])
    run(engine, checkpoint, tmp_path, sampling=SamplingParams(1.0, 1.0, 5, 2, seed=1))
    harder = Benchmark.of("sums", [EvalProblem("a", "1 2", ("4",)), EvalProblem("b", "2 2", ("4",))])
    run(engine, checkpoint, tmp_path, benchmark=harder)
    assert engine.calls == 5


def test_protocol_records_what_decided(checkpoint: Path, tmp_path: Path) -> None:
    protocol = run(ScriptedEngine([["", ""], ["", ""]]), checkpoint, tmp_path).protocol
    assert protocol["sampling"]["top_p"] == 1.0
    assert protocol["engine"] == {"name": "scripted", "versions": {"script": "1"}, "settings": {}}
    assert protocol["grader"]["name"] == "math-verify"
    assert protocol["prompt"] == "plain"
    with pytest.raises(ValueError, match=r"must not name \['sampling'\]"):
        run(ScriptedEngine([]), checkpoint, tmp_path, extras={"sampling": 1})


def test_missing_completions_are_a_defect(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="must return 4 completions"):
        run(ScriptedEngine([["A: 3", "A: 3"], ["A: 4"]]), checkpoint, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_real_engine_end_to_end(checkpoint: Path, tmp_path: Path) -> None:
    result = run(TransformersEngine(), checkpoint, tmp_path)
    assert len(result.rows) == 4
    assert 0 < result.metrics["mean_tokens"] <= 5
    assert result.metrics["unknown_rate"] == 1.0  # a random model states no answer
    assert run(TransformersEngine(), checkpoint, tmp_path) == result


def test_one_sample_has_neither_sem_nor_pass_at_k() -> None:
    metrics = score([ResultRow("a", 0, "", "stop", "wrong", "", "1", 4)], num_samples=1)
    assert metrics["pass_at_1"] == 0.0
    assert not any("sem" in name for name in metrics)
    assert all(math.isfinite(value) for value in metrics.values())
