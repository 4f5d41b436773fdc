"""Accuracy of a policy that is still in training: generate with the weights in memory, grade, count.

measure = PolicyAccuracy(benchmark, encoder.prompt_ids, [end_of_turn], SamplingParams(0.0, 1.0, 96, 1, 0), grader)
measure(backbone)["pass_at_1"]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import final

import numpy as np

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.evaluation.metrics import pass_at_1
from redi_lab.evaluation.scoring import grade_completions
from redi_lab.generation.checkpoint import Checkpoint
from redi_lab.generation.engines import SamplingParams
from redi_lab.generation.transformers_engine import TransformersEngine
from redi_lab.grading.grader import Verdict
from redi_lab.verifiers.base import Verifier


@final
@dataclass(frozen=True)
class PolicyAccuracy:
    """A function from a policy to numbers; nothing is stored, and the policy is not changed.

    Attributes:
        benchmark: problems and accepted answers.
        encode: from a problem's text to the token ids of its prompt.
        stops: tokens that end a completion.
        sampling: how completions are drawn; a problem's random numbers are its own, and the same at every step.
        grader: what grades them.
        max_batch_tokens: most tokens, prompts and new ones together, that the KV cache of one batch holds.
        require_closed_thought: see `redi_lab.evaluation.scoring.grade_completions`.
    """

    benchmark: Benchmark
    encode: Callable[[str], list[int]]
    stops: Sequence[int]
    sampling: SamplingParams
    grader: Verifier
    max_batch_tokens: int = 65_536
    require_closed_thought: bool = field(default=False, kw_only=True)

    @cached_property
    def _prompts(self) -> list[list[int]]:
        return [self.encode(problem.problem) for problem in self.benchmark.problems]

    def __call__(self, policy: CausalLM) -> dict[str, float]:
        """`pass_at_1` with its 95 % interval over problems, `truncation_rate`, and `mean_tokens` of a completion.

        Args:
            policy: in evaluation mode.
        """
        engine = TransformersEngine(self.max_batch_tokens, device=str(policy.device))
        with policy.for_generation() as model:
            opened = Checkpoint(model.config, policy.tokenizer, tuple(self.stops))
            completions = engine.generate_with(model, opened, self._prompts, self.sampling)
        pairs = [(completion.text, self.benchmark.problems[completion.problem_index]) for completion in completions]
        grades = grade_completions(self.grader, pairs, require_closed_thought=self.require_closed_thought)
        is_right = np.array([grade.verdict == Verdict.RIGHT for grade in grades], dtype=np.bool_)
        score = pass_at_1(is_right.reshape(-1, self.sampling.num_samples))
        return {
            "pass_at_1": score.value,
            "pass_at_1_ci_low": score.ci_low,
            "pass_at_1_ci_high": score.ci_high,
            "truncation_rate": float(np.mean([completion.finish_reason == "length" for completion in completions])),
            "mean_tokens": float(np.mean([len(completion.token_ids) for completion in completions])),
        }
