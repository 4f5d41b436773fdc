"""Which engine is faster on a checkpoint: alternating runs on the same prompts, medians.

    python benchmarks/engines.py CHECKPOINT [--vllm-python .venv-vllm/bin/python] [--problems 600] [--samples 4]

A cold run is what an evaluation pays: start the engine, load the model, generate. A warm one finds the model loaded.
The problems are those that the embedded task keeps for evaluation; figures in docs/engines.md.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from pathlib import Path

from redi_lab.backbone.hub import load_tokenizer
from redi_lab.config.compose import load_config
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.generation.engines import Completion, Engine, Request, SamplingParams
from redi_lab.generation.transformers_engine import TransformersEngine
from redi_lab.generation.vllm_engine import VLLMEngine
from redi_lab.run.build import make_source


def embedded_prompts(checkpoint: Path, count: int) -> list[list[int]]:
    """Prompts of the first held-out problems."""
    config = load_config("train", [])
    encoder = TraceEncoder(load_tokenizer(str(checkpoint)), config.data.prompt_template, config.data.thinking_prefix)
    return [encoder.prompt_ids(row.problem) for row in make_source(config).load().held_out[:count]]


def timed(
    engine: Engine, checkpoint: Path, prompts: list[list[int]], sampling: SamplingParams
) -> tuple[float, list[Completion]]:
    """Seconds, and what was generated."""
    start = time.perf_counter()
    drawn = engine.stream(checkpoint, [Request(prompts, sampling)])
    completions = [completion for _, some in drawn for completion in some]
    return time.perf_counter() - start, completions


def main() -> None:
    """Print one line a run, then the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--vllm-python", default=".venv-vllm/bin/python")
    parser.add_argument("--problems", type=int, default=600)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--max-new-tokens", type=int, default=96)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()

    prompts = embedded_prompts(arguments.checkpoint, arguments.problems)
    sampling = SamplingParams(arguments.temperature, 0.95, arguments.max_new_tokens, arguments.samples, seed=0)
    engines: dict[str, Engine] = {"transformers": TransformersEngine(), "vllm": VLLMEngine(arguments.vllm_python)}
    seconds: dict[tuple[str, str], list[float]] = {}
    for repeat in range(arguments.repeats):
        for name, engine in engines.items():
            engine.close()
            for state in ("cold", "warm"):
                spent, completions = timed(engine, arguments.checkpoint, prompts, sampling)
                seconds.setdefault((name, state), []).append(spent)
                tokens = sum(len(completion.token_ids) for completion in completions)
                load = os.getloadavg()[0]
                print(f"{repeat} {name:12} {state} {spent:6.2f} s  {tokens} tokens  load {load:.1f}", flush=True)
            engine.close()
    print(f"\nmedians of {arguments.repeats}, {len(prompts)} problems × {arguments.samples} samples")
    for (name, state), times in seconds.items():
        print(f"{name:12} {state} {statistics.median(times):6.2f} s  ({min(times):.2f}–{max(times):.2f})")


if __name__ == "__main__":
    main()
