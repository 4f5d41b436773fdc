"""All completions of a single request."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from redi_lab.generation.engines import Completion, Engine, Progress, Request, SamplingParams


def generate(
    engine: Engine,
    checkpoint: Path,
    prompts: Sequence[Sequence[int]],
    sampling: SamplingParams,
    on_progress: Progress | None = None,
) -> list[Completion]:
    """Ordered by problem, then sample; progress is (completions done, completions wanted)."""
    request = Request(prompts, sampling)
    advance = on_progress and (lambda _, done: on_progress(done, len(request.indices)))
    drawn = [made for _, some in engine.stream(checkpoint, [request], advance) for made in some]
    return sorted(drawn, key=lambda completion: (completion.problem_index, completion.sample_index))
