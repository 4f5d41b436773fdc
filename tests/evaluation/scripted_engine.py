"""An engine that says what a function tells it to, and remembers what it was asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from redi_lab.generation.engines import Completion, Request


class ScriptedEngine:
    """Completes `prompt` for the n-th time with `says(prompt, n)`; an empty text counts as cut off.

    Attributes:
        requests: The prompts and the indices of the samples of each.
    """

    name = "scripted"
    versions: Mapping[str, str] = {"script": "1"}  # the protocol asks for plain mappings
    settings: Mapping[str, Any] = {}

    def __init__(self, says: Callable[[tuple[int, ...], int], str]) -> None:
        self.says = says
        self.requests: list[tuple[list[tuple[int, ...]], range]] = []

    def stream(
        self, checkpoint: Path, requests: Sequence[Request], on_progress: Callable[[int, int], None] | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        for number, request in enumerate(requests):
            indices = request.sampling.sample_indices
            self.requests.append(([tuple(prompt) for prompt in request.prompts], indices))
            completions = []
            for problem, prompt in enumerate(request.prompts):
                for index in indices:
                    text = self.says(tuple(prompt), index)
                    logps = (-0.5, -0.25) if request.sampling.wants_token_logps else None
                    completions.append(Completion(problem, index, (1, 2), text, "stop" if text else "length", logps))
                    if on_progress is not None:
                        on_progress(number, len(completions))
            yield number, completions

    def close(self) -> None:
        """Nothing to free."""
