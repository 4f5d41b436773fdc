"""Evaluates a checkpoint in chunks of two completions, for tests that kill it: FOLDER CHECKPOINT [PYTHON_OF_VLLM]."""

from __future__ import annotations

import sys
from pathlib import Path

from redi_lab.evaluation.benchmarks import Benchmark, EvalProblem
from redi_lab.evaluation.evaluate import Evaluation
from redi_lab.generation.engines import SamplingParams
from redi_lab.generation.transformers_engine import TransformersEngine
from redi_lab.generation.vllm_engine import VLLMEngine
from redi_lab.verifiers.base import Limits
from redi_lab.verifiers.math import MathVerifier

NUM_PROBLEMS, NUM_SAMPLES = 24, 2


def make(folder: Path, checkpoint: Path, python: str | None = None) -> Evaluation:
    """The evaluation, the same in every process; some of its completions are answers, and some are right."""
    problems = [EvalProblem(str(number), f"{number % 21} {number % 5}", ("3", "5")) for number in range(NUM_PROBLEMS)]
    return Evaluation(
        TransformersEngine() if python is None else VLLMEngine(python, data_parallel_size=2),
        checkpoint,
        Benchmark.of("numbers", problems),
        lambda problem: [int(word) for word in problem.split()],
        SamplingParams(temperature=1.0, top_p=0.95, max_new_tokens=12, num_samples=NUM_SAMPLES, seed=7),
        MathVerifier(Limits()),
        {},
        folder,
        chunk_completions=2,
    )


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]).result()
