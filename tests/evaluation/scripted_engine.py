"""An engine that says what a function tells it to, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from redi_lab.generation.engines import Completion, SamplingParams


class ScriptedEngine:
    """Completes `prompt` for the n-th time with `says(prompt, n)`; an empty text counts as cut off.

    Attributes:
        requests: Of each call the prompts and the indices of the samples.
    """

    name = "scripted"
    versions: Mapping[str, str] = {"script": "1"}  # the protocol asks for plain mappings
    settings: Mapping[str, Any] = {}

    def __init__(self, says: Callable[[tuple[int, ...], int], str]) -> None:
        self.says = says
        self.requests: list[tuple[list[tuple[int, ...]], range]] = []

    def generate(
        self,
        checkpoint: Path,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> list[Completion]:
        self.requests.append(([tuple(prompt) for prompt in prompts], sampling.sample_indices))
        completions = []
        for problem, prompt in enumerate(prompts):
            for index in sampling.sample_indices:
                text = self.says(tuple(prompt), index)
                completions.append(Completion(problem, index, (1, 2), text, "stop" if text else "length"))
                if on_progress is not None:
                    on_progress(len(completions), len(prompts) * sampling.num_samples)
        return completions

    def close(self) -> None:
        """Nothing to free."""
