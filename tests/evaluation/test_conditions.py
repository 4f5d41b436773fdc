"""Several ways to ask: what is asked, what follows answers, and what is counted of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from redi_lab.data.chats import Dialogue
from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem
from redi_lab.evaluation.comparison import Finding, compare
from redi_lab.evaluation.conditions import Condition, balanced_pairs, changes, conditions_of, spread
from redi_lab.evaluation.evaluate import Evaluation, follow_up
from redi_lab.evaluation.metrics import Verdicts, interval, ratio
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.generation.engines import Request
from tests.evaluation.scripted_engine import ScriptedEngine
from tests.evaluation.test_evaluate import make

BENCHMARK = Benchmark.of("sums", [EvalProblem("a", "1 2", ("3",)), EvalProblem("b", "2 2", ("4",))])
DOUBT = Condition("doubted", after="asked", follow_up="0 7")
FIRST = {"1 2": ["A: 3", "A: 5"], "2 2": ["A: 5", "A: 5"]}
"""Answers to the problems: a is right, then wrong; b is wrong twice, in the same words."""


def encode(prompt: str) -> list[int]:
    """A problem by its numbers; answers become theirs, and so a dialogue can be told by its tokens."""
    return [int(word) for word in prompt.replace("A: ", "").split()]


def go_on(before: EvaluationResult) -> list[str]:
    texts = {problem.id: problem.problem for problem in BENCHMARK.problems}
    return [DOUBT.go_on(texts[row.id], row.text, texts[row.id]) for row in before.rows]


def says(prompt: tuple[int, ...], sample: int) -> str:
    if len(prompt) == 2:
        return FIRST[" ".join(map(str, prompt))][sample]
    a, b, answer = prompt[:3]
    return {(1, 2, 3): ["A: 3", ""], (1, 2, 5): ["A: 3", "A: 5"], (2, 2, 5): ["A: 5", "A: 4"]}[a, b, answer][sample % 2]


def both(checkpoint: Path, folder: Path, engine: ScriptedEngine, each: int = 1) -> tuple[EvaluationResult, ...]:
    asked = make(engine, checkpoint, folder, encoder=encode, benchmark=BENCHMARK)
    before = asked.result()
    return before, follow_up(with_each(asked, each), before, go_on(before), lambda done, total: None)


def with_each(evaluation: Evaluation, each: int) -> Evaluation:
    return replace(evaluation, sampling=replace(evaluation.sampling, num_samples=each))


def test_a_follow_up_goes_on_from_each_answer(checkpoint: Path, tmp_path: Path) -> None:
    engine = ScriptedEngine(says)
    before, after = both(checkpoint, tmp_path, engine)
    assert [row.verdict for row in before.rows] == ["right", "wrong", "wrong", "wrong"]
    assert [prompts for prompts, _ in engine.requests[1:]] == [
        [(1, 2, 3, 0, 7), (2, 2, 5, 0, 7)],
        [(1, 2, 5, 0, 7), (2, 2, 5, 0, 7)],
    ]
    assert [(row.id, row.sample, row.verdict) for row in after.rows] == [
        ("a", 0, "right"),
        ("a", 1, "right"),
        ("b", 0, "wrong"),
        ("b", 1, "wrong"),
    ]
    assert (after.metrics["pass_at_1"], after.metrics["num_samples"]) == (0.5, 2)
    assert (after.protocol["after"], after.benchmark_digest) == (before.key, before.benchmark_digest)


def test_it_is_looked_up_and_more_answers_or_follow_ups_keep_those_that_are_there(
    checkpoint: Path, tmp_path: Path
) -> None:
    engine = ScriptedEngine(says)
    _, after = both(checkpoint, tmp_path, engine)
    drawn = len(engine.requests)
    assert both(checkpoint, tmp_path, engine)[1] == after
    assert len(engine.requests) == drawn
    _, twice = both(checkpoint, tmp_path, engine, each=2)
    assert [[sample % 100_000 for sample in indices] for _, indices in engine.requests[drawn:]] == [[1], [1]]
    verdicts = ["right", "unknown", "right", "wrong", "wrong", "right", "wrong", "right"]
    assert [row.verdict for row in twice.rows] == verdicts
    assert [row.sample for row in twice.rows] == [0, 1, 2, 3] * 2
    assert twice.key != after.key


def test_equal_dialogues_have_random_numbers_of_their_own(checkpoint: Path, tmp_path: Path) -> None:
    """Both answers to b are the same text: what follows is sampled anew after each."""
    engine = ScriptedEngine(says)
    both(checkpoint, tmp_path, engine)
    indices = [indices for prompts, indices in engine.requests if (2, 2, 5, 0, 7) in prompts]
    assert len(indices) == 2
    assert indices[0] != indices[1]


class Killed(ScriptedEngine):
    """Dies after a number of requests."""

    def __init__(self, says: Callable[[tuple[int, ...], int], str], after: int) -> None:
        super().__init__(says)
        self.left = after

    def stream(self, checkpoint: Path, requests: Sequence[Request], on_progress: Any = None) -> Iterator[Any]:
        for made in super().stream(checkpoint, requests, on_progress):
            if self.left == 0:
                raise KeyboardInterrupt
            self.left -= 1
            yield made


def test_a_killed_follow_up_goes_on(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        both(checkpoint, tmp_path / "killed", Killed(says, after=2))
    engine = ScriptedEngine(says)
    resumed = both(checkpoint, tmp_path / "killed", engine)
    assert len(engine.requests) == 1  # of three
    assert resumed == both(checkpoint, tmp_path / "whole", ScriptedEngine(says))


def test_changes_by_hand(checkpoint: Path, tmp_path: Path) -> None:
    """After the right answer 1 of 2 is unread and none wrong; after the 3 wrong ones 3 of 6 are right."""
    before, after = both(checkpoint, tmp_path, ScriptedEngine(says), each=2)
    found = changes(before, after)
    assert {kind: estimate.value for kind, estimate in found.items()} == {
        "right_to_wrong": 0.0,
        "right_to_unknown": 0.5,
        "wrong_to_right": 0.5,
        "wrong_to_unknown": 0.0,
    }
    assert (found["right_to_wrong"].num_problems, found["wrong_to_right"].num_problems) == (1, 2)
    assert 0 < found["right_to_wrong"].ci_high < 1
    only_wrong = replace(before, rows=tuple(replace(row, verdict="wrong") for row in before.rows))
    assert changes(only_wrong, after).keys() == {"wrong_to_right", "wrong_to_unknown"}


def test_pairs_are_of_one_dialogue_and_balanced(checkpoint: Path, tmp_path: Path) -> None:
    """Two dialogues with wrong answers have both verdicts, and the one with a right answer gets one only by hand."""
    before, after = both(checkpoint, tmp_path, ScriptedEngine(says), each=2)
    prompts = [prompt for prompt in go_on(before) for _ in range(2)]
    assert list(balanced_pairs(before, after, prompts)) == []  # nothing to resist: no wrong answer after a right one
    rows = list(after.rows)
    rows[1] = replace(rows[1], verdict="wrong", text="A: 9", finish_reason="stop")
    resist, accept = balanced_pairs(before, replace(after, rows=tuple(rows)), prompts)
    assert (resist["kind"], resist["chosen"], resist["rejected"]) == ("resist", "A: 3", "A: 9")
    assert [turn["content"] for turn in resist["prompt"]] == ["1 2", "A: 3", "0 7"]
    assert (accept["kind"], accept["chosen"], accept["rejected"]) == ("accept", "A: 3", "A: 5")
    assert accept["prompt"][1] == {"role": "assistant", "content": "A: 5"}


def test_the_interval_of_a_ratio() -> None:
    """With equal counts it is that of the mean; two problems with nearly all cases are two, and not ten."""
    generator = np.random.default_rng(0)
    hits, threes = generator.integers(0, 4, 40).astype(np.float64), np.full(40, 3.0)
    equal = ratio(hits, threes, 3)
    assert equal is not None
    assert (equal.ci_low, equal.ci_high) == pytest.approx(tuple(map(float, interval(hits / 3))))
    assert ratio(np.zeros(3), np.zeros(3), 1) is None
    known = ratio(np.array([1.0, 0.0, 5.0]), np.array([2.0, 0.0, 6.0]), 6)
    assert known is not None
    assert (known.value, known.num_problems) == (0.75, 2)
    heavy = ratio(np.array([50.0, 0.0, *[1.0] * 8]), np.array([50.0, 50.0, *[2.0] * 8]), 50)
    assert heavy is not None
    assert heavy.ci_low < 0.15
    assert heavy.ci_high > 0.85


def test_the_interval_of_a_ratio_covers() -> None:
    """Counts that go with the rates, as after answers of problems of all difficulties: 400 draws of 80 problems."""
    generator, held = np.random.default_rng(1), 0
    for _ in range(400):
        difficulty = generator.beta(2, 2, 80)
        counts = generator.binomial(4, difficulty)
        hits = generator.binomial(counts, 1 - difficulty)
        estimate = ratio(hits.astype(np.float64), counts.astype(np.float64), 4)
        assert estimate is not None
        held += estimate.ci_low <= 0.4 <= estimate.ci_high  # E[d(1 − d)] / E[d] = 0.2 / 0.5
    assert 0.92 <= held / 400 <= 0.98


def drawn(generator: np.random.Generator, effects: Sequence[float], problems: int = 150) -> list[Verdicts]:
    difficulty = generator.beta(3, 3, problems)
    return [generator.random((problems, 2)) < np.clip(difficulty + e, 0, 1)[:, None] for e in effects]


def test_conditions_that_are_alike_have_no_spread_and_others_theirs() -> None:
    generator = np.random.default_rng(2)
    alike = [spread(drawn(generator, [0.0] * 8)) for _ in range(40)]
    assert sum(one.p_value < 0.05 for one in alike) <= 5
    assert sum(one.deviation.ci_low == 0 for one in alike) >= 35
    assert np.mean([one.noise for one in alike]) == pytest.approx(0.028, abs=0.003)  # √(E[d(1 − d)] / 2 / 150)
    effects = [-0.15, -0.05, 0.05, 0.15] * 2  # their standard deviation is 0.12
    apart = [spread(drawn(generator, effects)) for _ in range(10)]
    assert all(one.p_value < 0.01 for one in apart)
    assert np.mean([one.deviation.value for one in apart]) == pytest.approx(0.12, abs=0.02)
    assert all(one.deviation.ci_low < 0.12 < one.deviation.ci_high for one in apart)


def test_the_detectable_difference_is_found_four_times_out_of_five() -> None:
    generator = np.random.default_rng(3)
    size = float(np.mean([spread(drawn(generator, [0.0] * 3)).detectable for _ in range(10)]))
    found = [compare(*drawn(generator, [size, 0.0])[:2]).finding() is Finding.BETTER for _ in range(200)]
    assert 0.7 <= np.mean(found) <= 0.9


def test_combinations_are_conditions() -> None:
    combined = {"system": {"opener": ["", "Hello."], "closer": ["", "Bye."]}, "suffix": {"steps": ["", "By steps."]}}
    made = {one.name: one for one in conditions_of({"plain": {"prefix": "Q:"}}, combined)}
    assert len(made) == 1 + 8
    assert made["plain"].put("1+1?") == "Q:\n1+1?"
    assert made["opener1-closer1-steps1"].settings == {}
    assert made["opener1-closer1-steps2"].put("1+1?") == "1+1?\nBy steps."
    full = made["opener2-closer2-steps2"].put("1+1?")
    assert isinstance(full, Dialogue)
    assert (full.system, full.turns) == ("Hello. Bye.", ("1+1?\nBy steps.",))


def test_words_go_around_the_first_turn_of_a_dialogue() -> None:
    put = Condition("rude", prefix="Well?").put(Dialogue(["1+1?", "3", "Sure?"], "Be brief."))
    assert isinstance(put, Dialogue)
    assert (put.system, put.turns) == ("Be brief.", ("Well?\n1+1?", "3", "Sure?"))
    again = Condition("again", after="asked", follow_up="Once more: {problem}").go_on("Well?\n1+1?", "3", "1+1?")
    assert again.turns == ("Well?\n1+1?", "3", "Once more: 1+1?")
