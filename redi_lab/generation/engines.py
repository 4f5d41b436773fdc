"""What evaluation asks of a generator: prompts and sampling parameters in, completions out.

    engine: Engine = TransformersEngine()
    request = Request(prompts, SamplingParams(0.6, 0.95, 1024, num_samples=4, seed=42))
    for number, completions in engine.stream(folder, [request]):
        ...

`redi_lab.generation.transformers_engine` runs everywhere; `redi_lab.generation.vllm_engine` needs vLLM.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, final

FinishReason = Literal["stop", "length"]
Progress = Callable[[int, int], None]


@final
@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How completions are drawn.

    Attributes:
        temperature: 0 for the most probable token at each step, else a positive divisor of the logits.
        top_p: Sample from the smallest set of tokens that holds this probability, in (0, 1].
        max_new_tokens: Longest completion, in tokens, the end token included.
        num_samples: Completions of each prompt.
        seed: Seed of all streams, not negative. Each completion has a separate stream, named by the seed, its prompt's
            tokens and its sample index: more samples or another order of prompts change no other completion.
        first_sample: Index of the first of the samples.
        wants_token_logps: Whether completions come with the log-probs of their tokens.
    """

    temperature: float
    top_p: float
    max_new_tokens: int
    num_samples: int
    seed: int
    first_sample: int = 0
    wants_token_logps: bool = False

    @property
    def sample_indices(self) -> range:
        """Indices of the samples of each prompt."""
        return range(self.first_sample, self.first_sample + self.num_samples)


@final
@dataclass(frozen=True, slots=True)
class Completion:
    """One generated completion.

    Attributes:
        problem_index: Position of its prompt in the request.
        sample_index: Which of the prompt's samples it is.
        token_ids: The generated tokens, the end token included where there is one.
        text: The decoded tokens without special tokens.
        finish_reason: "stop" after an end token, "length" when cut at max_new_tokens.
        token_logps: Log-probs of `token_ids` under the model itself, at temperature 1 and with no token cut off,
            whatever the sampling; None unless asked for.
    """

    problem_index: int
    sample_index: int
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason
    token_logps: tuple[float, ...] | None = None


@final
@dataclass(frozen=True, slots=True)
class Request:
    """Completions that are wanted: of these prompts (token ids), drawn so."""

    prompts: Sequence[Sequence[int]]
    sampling: SamplingParams

    @property
    def indices(self) -> list[tuple[int, int]]:
        """Indices of problem and sample of each completion."""
        return [(problem, sample) for problem in range(len(self.prompts)) for sample in self.sampling.sample_indices]


class Engine(Protocol):
    """What evaluation asks of a generator. `settings` and `versions` become part of a result's protocol."""

    @property
    def name(self) -> str:
        """Short name of the engine."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of the libraries that decide the numbers."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """Settings that can change a completion, such as the precision; JSON values."""

    def stream(
        self, checkpoint: Path, requests: Sequence[Request], on_progress: Progress | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        """Complete every prompt of every request `sampling.num_samples` times.

        The model stays loaded for further calls on the same checkpoint, until `close`.

        Args:
            checkpoint: Hugging Face folder with model and tokenizer.
            requests: What is wanted.
            on_progress: Called with (position of a request, how many of its completions are done).

        Yields:
            The position of a request, and as they come some of its completions, ordered by problem, then sample. To
            come out the same to the last bit after an interruption, these have to be drawn together again.
        """

    def close(self) -> None:
        """Free the model and whatever runs it; the engine can be used again."""
