from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem
from redi_lab.evaluation.evaluate import Evaluation
from redi_lab.generation.engines import Completion, Progress, Request, SamplingParams
from redi_lab.verbs.evaluate.question import ask
from redi_lab.verifiers.base import Limits
from redi_lab.verifiers.math import MathVerifier

NUM_PROBLEMS = 60


class CoinEngine:
    """Answers problem i rightly with a chance of its own, by a random number that belongs to (problem, sample)."""

    name = "coin"
    versions: Mapping[str, str] = {}

    def __init__(self, chance: float) -> None:
        self.settings: Mapping[str, str | int] = {"chance": str(chance)}
        self.chance = chance
        self.drawn: list[tuple[int, int]] = []

    def stream(
        self, checkpoint: Path, requests: Sequence[Request], on_progress: Progress | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        for number, request in enumerate(requests):
            completions = []
            for index, (problem, *_) in enumerate(request.prompts):
                for sample in request.sampling.sample_indices:
                    self.drawn.append((problem, sample))
                    is_right = np.random.default_rng([problem, sample]).random() < self.chance
                    completions.append(Completion(index, sample, (1,), f"A: {problem if is_right else -1}", "stop"))
            if on_progress is not None:
                on_progress(number, len(completions))
            yield number, completions

    def close(self) -> None:
        """Nothing to free."""


def evaluation(
    engine: CoinEngine, checkpoint: Path, folder: Path, grader: MathVerifier, num_samples: int
) -> Evaluation:
    problems = [EvalProblem(str(number), str(number), (str(number),)) for number in range(NUM_PROBLEMS)]
    benchmark = Benchmark.of("coins", problems)
    sampling = SamplingParams(1.0, 1.0, 5, num_samples, 0)
    return Evaluation(engine, checkpoint, benchmark, lambda text: [int(text)], sampling, grader, {}, folder)


def question(**settings: Any) -> Any:
    return OmegaConf.create({"width": None, "better_than": None, "delta": 0.0, "confidence": 0.95} | settings)


def test_stops_when_it_is_answered_and_draws_nothing_twice(qwen_folder: Path, tmp_path: Path) -> None:
    good, bad = CoinEngine(0.9), CoinEngine(0.3)
    seen: list[tuple[int, int]] = []
    with MathVerifier(Limits(1)) as grader:
        pair = [evaluation(engine, qwen_folder, tmp_path, grader, 16) for engine in (good, bad)]
        answer = ask(question(better_than="bad"), pair, lambda done, total: seen.append((done, total)))
    states, count = answer.states, answer.states[-1].num_samples
    assert states[-1].answer == "yes"
    assert answer.sentence.startswith("Is pass@1 better than that of bad? Yes. The difference on these problems is +0.")
    assert answer.summary["rival"]["pass_at_1"] == answer.results[1].metrics["pass_at_1"]
    assert count < 16
    assert all(state.answer is None for state in states[:-1])
    for engine, result in zip((good, bad), answer.results, strict=True):
        assert len(engine.drawn) == len(set(engine.drawn)) == NUM_PROBLEMS * count
        assert result.metrics["num_samples"] == count
    assert answer.results[0].metrics["pass_at_1"] > 0.8
    assert seen[-1] == (2 * NUM_PROBLEMS * count, 2 * NUM_PROBLEMS * 16)
    assert seen == sorted(seen)


def test_an_open_question_ends_with_all_samples_and_the_plain_result(qwen_folder: Path, tmp_path: Path) -> None:
    engine = CoinEngine(0.5)
    with MathVerifier(Limits(1)) as grader:
        plain = evaluation(engine, qwen_folder, tmp_path, grader, 5)
        answer = ask(question(width=0.001), [plain], lambda *_: None)
        assert answer.states[-1].answer is None
        assert [state.num_samples for state in answer.states] == [1, 2, 3, 4, 5]
        assert answer.results == (plain.result(),)
        assert answer.sentence.startswith("Is pass@1 known to ± 0.001? Not answered. The score on these problems is 0.")
    assert len(engine.drawn) == NUM_PROBLEMS * 5
    assert answer.states[-1].low < answer.results[0].metrics["pass_at_1"] < answer.states[-1].high


def test_one_sample_is_one_look(qwen_folder: Path, tmp_path: Path) -> None:
    with MathVerifier(Limits(1)) as grader:
        once = evaluation(CoinEngine(1.0), qwen_folder, tmp_path, grader, 1)
        answer = ask(question(width=0.2), [once], lambda *_: None)
    assert [state.answer for state in answer.states] == ["known"]
