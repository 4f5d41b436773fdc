from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem
from redi_lab.evaluation.evaluate import Evaluation
from redi_lab.evaluation.sequential import better_by, known_to
from redi_lab.evaluation.until_answered import evaluate_until_answered
from redi_lab.generation.engines import Completion, Progress, SamplingParams
from redi_lab.grading.grader import Grader

NUM_PROBLEMS = 60


class CoinEngine:
    """Answers problem i rightly with a chance of its own, by a random number that belongs to (problem, sample)."""

    name = "coin"
    versions: Mapping[str, str] = {}

    def __init__(self, chance: float) -> None:
        self.settings: Mapping[str, str | int] = {"chance": str(chance)}
        self.chance = chance
        self.drawn: list[tuple[int, int]] = []

    def generate(
        self,
        checkpoint: Path,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        on_progress: Progress | None = None,
    ) -> list[Completion]:
        completions = []
        for index, (problem, *_) in enumerate(prompts):
            for sample in sampling.sample_indices:
                self.drawn.append((problem, sample))
                is_right = np.random.default_rng([problem, sample]).random() < self.chance
                completions.append(Completion(index, sample, (1,), f"A: {problem if is_right else -1}", "stop"))
        if on_progress is not None:
            on_progress(len(completions), len(completions))
        return completions

    def close(self) -> None:
        """Nothing to free."""


def evaluation(engine: CoinEngine, checkpoint: Path, folder: Path, grader: Grader, num_samples: int) -> Evaluation:
    problems = [EvalProblem(str(number), str(number), (str(number),)) for number in range(NUM_PROBLEMS)]
    benchmark = Benchmark.of("coins", problems)
    sampling = SamplingParams(1.0, 1.0, 5, num_samples, 0)
    return Evaluation(engine, checkpoint, benchmark, lambda text: [int(text)], sampling, grader, {}, folder)


def test_stops_when_it_is_answered_and_draws_nothing_twice(checkpoint: Path, tmp_path: Path) -> None:
    good, bad = CoinEngine(0.9), CoinEngine(0.3)
    seen: list[tuple[int, int]] = []
    with Grader(num_workers=1) as grader:
        pair = [evaluation(engine, checkpoint, tmp_path, grader, 16) for engine in (good, bad)]
        ask = partial(better_by, delta=0.0, max_samples=16)
        results, states = evaluate_until_answered(pair, ask, lambda done, total: seen.append((done, total)))
    assert states[-1].answer == "yes"
    count = states[-1].num_samples
    assert count < 16
    assert all(state.answer is None for state in states[:-1])
    for engine, result in zip((good, bad), results, strict=True):
        assert len(engine.drawn) == len(set(engine.drawn)) == NUM_PROBLEMS * count
        assert result.metrics["num_samples"] == count
    assert results[0].metrics["pass_at_1"] > 0.8
    assert seen[-1] == (2 * NUM_PROBLEMS * count, 2 * NUM_PROBLEMS * 16)
    assert seen == sorted(seen)


def test_an_open_question_ends_with_all_samples_and_the_plain_result(checkpoint: Path, tmp_path: Path) -> None:
    engine = CoinEngine(0.5)
    with Grader(num_workers=1) as grader:
        plain = evaluation(engine, checkpoint, tmp_path, grader, 5)
        results, states = evaluate_until_answered([plain], partial(known_to, width=0.001, max_samples=5))
        assert states[-1].answer is None
        assert [state.num_samples for state in states] == [1, 2, 3, 4, 5]
        assert results == [plain.result()]
    assert len(engine.drawn) == NUM_PROBLEMS * 5
    assert states[-1].low < results[0].metrics["pass_at_1"] < states[-1].high


def test_one_sample_is_one_look(checkpoint: Path, tmp_path: Path) -> None:
    with Grader(num_workers=1) as grader:
        once = evaluation(CoinEngine(1.0), checkpoint, tmp_path, grader, 1)
        _, states = evaluate_until_answered([once], partial(known_to, width=0.2, max_samples=1))
    assert [state.answer for state in states] == ["known"]
