"""Accuracy of a policy that is still in training: generate with the weights in memory, grade, count.

measure = PolicyAccuracy(benchmark, encoder.prompt_ids, [end_of_turn], SamplingParams(0.0, 1.0, 96, 1, 0), grader)
measure(backbone)["pass_at_1"]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import final

import numpy as np
import torch

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.data.packing import make_batch
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.evaluation.benchmarks import Benchmark
from redi_lab.evaluation.metrics import pass_at_1
from redi_lab.evaluation.scoring import grade_completions, text_statistics
from redi_lab.generation.checkpoint import Checkpoint
from redi_lab.generation.engines import Completion, SamplingParams
from redi_lab.generation.transformers_engine import TransformersEngine
from redi_lab.grading.grader import Verdict
from redi_lab.losses.logps import token_logps
from redi_lab.verifiers.base import Verifier

_TEXT = ("mean_tokens", "waits_per_completion", "waits_per_1k_tokens")
_ENTROPY_TOKENS = 8192  # of one forward pass, unless a completion is longer


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
        """`pass_at_1` with its 95 % interval over problems, `truncation_rate`, and what describes the completions.

        `mean_tokens`, `waits_per_completion` and `waits_per_1k_tokens` are those of `text_statistics`; `entropy` is the
        mean over their tokens of the entropy of the policy's own distribution (temperature 1), in nats.

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
        statistics = text_statistics([c.text for c in completions], [len(c.token_ids) for c in completions])
        score = pass_at_1(is_right.reshape(-1, self.sampling.num_samples))
        return {
            "pass_at_1": score.value,
            "pass_at_1_ci_low": score.ci_low,
            "pass_at_1_ci_high": score.ci_high,
            "truncation_rate": float(np.mean([completion.finish_reason == "length" for completion in completions])),
            **{name: statistics[name] for name in _TEXT},
            "entropy": self._entropy(policy, completions),
        }

    @torch.no_grad()
    def _entropy(self, policy: CausalLM, completions: Sequence[Completion]) -> float:
        prompts = self._prompts
        sequences = [
            TokenizedSequence("", [*prompts[c.problem_index], *c.token_ids], len(prompts[c.problem_index]))
            for c in completions
        ]
        budget = max(_ENTROPY_TOKENS, *(len(sequence.input_ids) for sequence in sequences))
        batch = make_batch([(sequence,) for sequence in sequences], token_budget=budget, split_examples=True)
        found = [
            policy(micro.to(policy.device), partial(token_logps, with_entropy=True)).entropy
            for micro in batch.micro_batches
        ]
        return float(torch.cat(found).mean())
