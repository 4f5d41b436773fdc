"""Accuracy during training: when it is measured, under which step it is logged, and that training never notices."""

from __future__ import annotations

import random
import time
from collections.abc import Iterable
from functools import partial
from typing import Any, ClassVar, Self, final

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch.optim import AdamW

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.callbacks.accuracy import InTrainingAccuracy
from redi_lab.callbacks.measuring import DEFAULT_MEASUREMENTS
from redi_lab.data.tokenization import TokenizedSequence, TraceEncoder
from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem
from redi_lab.evaluation.policy_accuracy import PolicyAccuracy
from redi_lab.generation.engines import SamplingParams
from redi_lab.grading.grader import Grade, Verdict
from redi_lab.verifiers.base import Limits, Posed, Verifier
from redi_lab.verifiers.math import MathVerifier
from tests.modules.tiny_runs import (
    HARMLESS_WARNINGS,
    NaiveTwin,
    Run,
    fit,
    make_backbone,
    make_data,
    make_module,
    tokenizer,
)

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]


@final
class Counter:
    """Says how often it was asked, and whether the policy was in evaluation mode without gradients."""

    def __init__(self) -> None:
        self.policies: list[CausalLM] = []
        self.modes: set[tuple[bool, bool]] = set()

    def __call__(self, policy: CausalLM) -> dict[str, float]:
        self.policies.append(policy)
        self.modes.add((policy.training, torch.is_grad_enabled()))
        return {"pass_at_1": len(self.policies) / 100}


def run(*callbacks: pl.Callback, max_steps: int = 5) -> Run:
    module = make_module("redi", make_backbone(), optimizer=partial(AdamW, lr=1e-2))
    return fit(module, make_data("redi", batch_size=3), max_steps=max_steps, callbacks=callbacks)


def logged(result: Run) -> dict[int, float]:
    return {step: call["val/pass_at_1"] for step, call in result.log.calls if "val/pass_at_1" in call}


@pytest.mark.parametrize(
    ("every", "expected"),
    [(2, [0, 2, 4, 5]), (5, [0, 5])],
)
def test_is_measured_at_the_start_the_interval_and_the_end(every: int, expected: list[int]) -> None:
    measure = Counter()
    found = logged(run(InTrainingAccuracy(measure, every)))
    assert found == {step: pytest.approx(number / 100) for number, step in enumerate(expected, start=1)}
    assert measure.modes == {(False, False)}


def test_without_an_interval_a_training_of_any_length_is_measured_as_often() -> None:
    steps = list(logged(run(InTrainingAccuracy(Counter(), None), max_steps=DEFAULT_MEASUREMENTS * 2 - 1)))
    assert steps == [*range(0, DEFAULT_MEASUREMENTS * 2 - 1, 2), DEFAULT_MEASUREMENTS * 2 - 1]


def test_other_callbacks_find_the_value_at_once() -> None:
    seen: list[float] = []

    class Reader(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            seen.append(float(trainer.callback_metrics["val/pass_at_1"]))

    run(InTrainingAccuracy(Counter(), 2), Reader(), max_steps=4)
    assert seen == pytest.approx([0.01, 0.02, 0.02, 0.03])


def test_training_is_the_same_to_the_bit_whatever_the_measurement_draws() -> None:
    def gamble(policy: CausalLM) -> dict[str, float]:
        torch.rand(7)
        np.random.default_rng()
        np.random.rand(3)
        random.random()
        with torch.enable_grad():
            policy.head.weight.sum()
        return {"pass_at_1": 0.0}

    class Draws(pl.Callback):
        """What training itself would draw in every step."""

        def __init__(self) -> None:
            self.numbers: list[float] = []

        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            self.numbers += [float(torch.rand(())), float(np.random.rand()), random.random()]
            assert pl_module.backbone.training

    def seeded(*callbacks: pl.Callback) -> tuple[list[float], Run]:
        pl.seed_everything(5, verbose=False)
        draws = Draws()
        return draws.numbers, run(draws, *callbacks)

    numbers, without = seeded()
    same_numbers, with_it = seeded(InTrainingAccuracy(gamble, 1))
    assert same_numbers == numbers
    assert all(torch.equal(a, b) for a, b in zip(with_it.tap.parameters, without.tap.parameters, strict=True))
    losses = [[call["train/loss"] for call in result.train] for result in (with_it, without)]
    assert losses[0] == losses[1]


def test_the_time_it_takes_is_no_training_time() -> None:
    ended: list[float] = []

    def measure(policy: CausalLM) -> dict[str, float]:
        ended.append(time.perf_counter())
        return {"pass_at_1": 0.0}

    class Clock(pl.Callback):
        def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
            assert pl_module._clock > ended[-1]

    run(InTrainingAccuracy(measure, 1), Clock(), max_steps=3)
    assert len(ended) == 4


def problems(number: int) -> Benchmark:
    return Benchmark.of(
        "few", [EvalProblem(str(n), f"{n + 11} , first add 12 ?", (str(n + 23),)) for n in range(number)]
    )


def measure_of(grader: Verifier, *, require_closed_thought: bool = False, **changes: Any) -> PolicyAccuracy:
    sampling: dict[str, Any] = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 8, "num_samples": 1, "seed": 0}
    encoder = TraceEncoder(tokenizer())
    return PolicyAccuracy(
        problems(5),
        encoder.prompt_ids,
        [encoder.end_of_turn_id],
        SamplingParams(**sampling | changes),
        grader,
        require_closed_thought=require_closed_thought,
    )


def test_measuring_a_real_policy_leaves_its_training_as_it_is() -> None:
    with MathVerifier(Limits()) as grader:
        with_it = run(InTrainingAccuracy(measure_of(grader, temperature=0.7, num_samples=3), 2), max_steps=3)
        without = run(max_steps=3)
    assert torch.equal(with_it.tap.parameters[-1], without.tap.parameters[-1])
    (first, *_) = [call for _, call in with_it.log.calls if "val/pass_at_1" in call]
    assert {name.removeprefix("val/") for name in first} == {
        *("pass_at_1", "pass_at_1_ci_low", "pass_at_1_ci_high"),
        *("truncation_rate", "mean_tokens", "waits_per_completion", "waits_per_1k_tokens", "entropy"),
    }


def test_accuracy_counts_what_the_policy_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that always says 23 then ends is right on the first of five problems."""
    policy, words = make_backbone().eval(), tokenizer()
    says = [*words("\\boxed { 23 }")["input_ids"], words.eos_token_id]

    before = (policy.model.config._attn_implementation, policy.model.generation_config)
    with MathVerifier(Limits()) as grader:
        measure = measure_of(grader, max_new_tokens=20)
        engine = "redi_lab.generation.transformers_engine.TransformersEngine._generate_batch"
        monkeypatch.setattr(engine, lambda self, model, batch, *_: ([says] * len(batch), [None] * len(batch)))
        metrics = measure(policy)
        assert measure_of(grader, max_new_tokens=20, require_closed_thought=True)(policy)["pass_at_1"] == 0.0
    assert metrics["pass_at_1"] == 0.2
    assert metrics["pass_at_1_ci_low"] < 0.2 < metrics["pass_at_1_ci_high"]
    assert metrics["truncation_rate"] == 0.0
    assert metrics["mean_tokens"] == len(says)
    assert metrics["waits_per_completion"] == 0.0
    prompts = [measure.encode(problem.problem) for problem in measure.benchmark.problems]
    said = [TokenizedSequence("", [*prompt, *says], len(prompt)) for prompt in prompts]
    every = torch.cat([NaiveTwin(policy).token_distributions(sequence) for sequence in said]).detach()
    assert metrics["entropy"] == pytest.approx(float(-(every.exp() * every).sum(-1).mean()), rel=1e-4)
    assert (policy.model.config._attn_implementation, policy.model.generation_config) == before


class ById:
    """Says right of the problems with certain ids, whatever the completion."""

    settings: ClassVar[dict[str, Any]] = {"name": "by id"}

    def check(self, problems: Iterable[Posed]) -> None:
        """All are taken."""

    def grade_all(self, pairs: Iterable[tuple[str, Posed]]) -> list[Grade]:
        return [Grade(Verdict.RIGHT if problem.id in "134" else Verdict.UNKNOWN, "id", None) for _, problem in pairs]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is open."""


def test_the_verifier_decides_during_training_too() -> None:
    assert measure_of(ById())(make_backbone().eval())["pass_at_1"] == 0.6
