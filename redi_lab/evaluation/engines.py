"""Engines: from a checkpoint folder and prompts to completions.

`Engine` is what evaluation needs of any generator; `TransformersEngine` is the one that runs everywhere.

    engine = TransformersEngine(max_batch_tokens=65_536)
    completions = engine.generate(folder, prompts, SamplingParams(0.6, 0.95, 1024, num_samples=4, seed=42))
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, Protocol, final

import numpy as np
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
)

from redi_lab.errors import UserError
from redi_lab.evaluation.kv_cache import empty_cache
from redi_lab.evaluation.sampling import SeededSampler, uniforms

FinishReason = Literal["stop", "length"]
Progress = Callable[[int, int], None]

_TOKENS_BETWEEN_SORTINGS = 16  # steps between two looks for finished rows: leaving costs one copy of the KV cache


@final
@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How completions are drawn.

    Attributes:
        temperature: 0 for the most probable token at each step, else a positive divisor of the logits.
        top_p: Sample from the smallest set of tokens that holds this probability, in (0, 1].
        max_new_tokens: Longest completion, in tokens, the end token included.
        num_samples: Completions of each prompt.
        seed: Seed of all streams, not negative.
    """

    temperature: float
    top_p: float
    max_new_tokens: int
    num_samples: int
    seed: int

    def __post_init__(self) -> None:
        for name, value, is_valid, rule in (
            ("temperature", self.temperature, 0 <= self.temperature < float("inf"), "not negative"),
            ("top_p", self.top_p, 0 < self.top_p <= 1, "in (0, 1]"),
            ("max_new_tokens", self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
            ("num_samples", self.num_samples, self.num_samples >= 1, "at least 1"),
            ("seed", self.seed, self.seed >= 0, "not negative"),
        ):
            if not is_valid:
                raise ValueError(f"sampling.{name} must be {rule}, got {value}")


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
    """

    problem_index: int
    sample_index: int
    token_ids: tuple[int, ...]
    text: str
    finish_reason: FinishReason


class Engine(Protocol):
    """What evaluation asks of a generator. `settings` and `versions` become part of a result's protocol."""

    @property
    def name(self) -> str:
        """Short name of the engine."""

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of the libraries that decide the numbers."""

    @property
    def settings(self) -> Mapping[str, str | int]:
        """Settings that can change a completion, such as the precision."""

    def generate(
        self,
        checkpoint: Path,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        on_progress: Progress | None = None,
    ) -> list[Completion]:
        """Complete every prompt `sampling.num_samples` times.

        Args:
            checkpoint: Hugging Face folder with model and tokenizer.
            prompts: Token ids of each prompt.
            sampling: How completions are drawn.
            on_progress: Called with (completions done, completions wanted).

        Returns:
            One completion for each prompt and sample, ordered by problem, then sample.
        """


@final
@dataclass(frozen=True, slots=True)
class _Row:
    """One completion still to be generated."""

    problem_index: int
    sample_index: int
    prompt: tuple[int, ...]


@final
class TransformersEngine:
    """Batched `model.generate` of transformers: left padding, KV cache, SDPA, no remote code.

    Rows of a batch are of similar prompt length, and leave it when they are finished. Completions do not depend on the
    batch beyond rounding, see `redi_lab.evaluation.sampling`.

    Args:
        max_batch_tokens: Tokens that the KV cache of one batch may hold, prompts and new tokens together. For
            Qwen2.5-1.5B a token takes 28 KiB in bfloat16, so the default is 1.8 GiB.
        dtype: "float32", "bfloat16", or "auto" for what the checkpoint was saved in.
        device: A torch device, or "auto" for CUDA where there is one, else the CPU.

    Raises:
        ValueError: `max_batch_tokens` is not positive or `dtype` unknown.
    """

    def __init__(self, max_batch_tokens: int = 65_536, dtype: str = "auto", device: str = "auto") -> None:
        if max_batch_tokens < 1:
            raise ValueError(f"TransformersEngine: max_batch_tokens must be at least 1, got {max_batch_tokens}")
        if dtype not in ("float32", "bfloat16", "auto"):
            raise ValueError(f"TransformersEngine: dtype must be float32, bfloat16 or auto, got {dtype}")
        self._max_batch_tokens = max_batch_tokens
        self._dtype = dtype
        self._device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)

    @property
    def name(self) -> str:
        """Short name of the engine."""
        return "transformers"

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of the libraries that decide the numbers."""
        return {"transformers": version("transformers"), "torch": version("torch")}

    @property
    def settings(self) -> Mapping[str, str | int]:
        """Precision, kind of device, and batch budget (which moves rounding)."""
        return {"dtype": self._dtype, "device": self._device.type, "max_batch_tokens": self._max_batch_tokens}

    def generate(
        self,
        checkpoint: Path,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        on_progress: Progress | None = None,
    ) -> list[Completion]:
        """See `Engine.generate`.

        Raises:
            UserError: The folder cannot be loaded or names no end token; a prompt is empty; a prompt with its new
                tokens exceeds the model's positions or `max_batch_tokens`.
        """
        model, tokenizer = self._load(checkpoint)
        stops = _stop_tokens(checkpoint, model, tokenizer)
        self._check_lengths(prompts, sampling.max_new_tokens, getattr(model.config, "max_position_embeddings", None))
        # A fresh configuration: generate() would fill what a request leaves open from the checkpoint's own settings.
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else stops[0]
        model.generation_config = GenerationConfig(do_sample=False, eos_token_id=stops, pad_token_id=pad)
        rows = [
            _Row(problem, sample, tuple(prompt))
            for problem, prompt in enumerate(prompts)
            for sample in range(sampling.num_samples)
        ]
        completions: list[Completion] = []
        for batch in self._batches(rows, sampling.max_new_tokens):
            for row, generated in zip(batch, self._generate_batch(model, batch, sampling, stops), strict=True):
                completions.append(_completion(row, generated, stops, tokenizer))
            if on_progress is not None:
                on_progress(len(completions), len(rows))
        return sorted(completions, key=lambda completion: (completion.problem_index, completion.sample_index))

    def _load(self, checkpoint: Path) -> tuple[Any, Any]:
        try:
            model = AutoModelForCausalLM.from_pretrained(
                checkpoint,
                dtype=self._dtype if self._dtype == "auto" else getattr(torch, self._dtype),
                attn_implementation="sdpa",
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
            )
            tokenizer = _load_tokenizer(checkpoint)
        except (OSError, ValueError) as error:
            raise UserError(f"checkpoint {checkpoint} is no Hugging Face folder that can be loaded: {error}") from error
        return model.to(self._device).eval(), tokenizer

    def _check_lengths(self, prompts: Sequence[Sequence[int]], max_new_tokens: int, positions: int | None) -> None:
        for index, prompt in enumerate(prompts):
            if not prompt:
                raise UserError(f"prompt {index} is empty: the model needs at least one token to start from")
            needed = f"prompt {index} has {len(prompt)} tokens and sampling.max_new_tokens is {max_new_tokens}"
            length = len(prompt) + max_new_tokens
            if positions is not None and length > positions:
                raise UserError(f"{needed}: together {length}, more than the model's {positions} positions; lower it")
            if length > self._max_batch_tokens:
                raise UserError(
                    f"{needed}: together {length}, more than engine.max_batch_tokens={self._max_batch_tokens}; "
                    "raise that budget (it bounds the KV cache) or lower max_new_tokens"
                )

    def _batches(self, rows: Sequence[_Row], max_new_tokens: int) -> Iterator[list[_Row]]:
        """Batches of rows whose padded prompts and new tokens fit the budget, longest prompts first.

        The dearest batch comes first, so that a budget which is too large fails at once.
        """
        batch: list[_Row] = []
        for row in sorted(rows, key=lambda row: len(row.prompt), reverse=True):
            if batch and (len(batch) + 1) * (len(batch[0].prompt) + max_new_tokens) > self._max_batch_tokens:
                yield batch
                batch = []
            batch.append(row)
        if batch:
            yield batch

    @torch.inference_mode()
    def _generate_batch(
        self, model: Any, batch: Sequence[_Row], sampling: SamplingParams, stops: Sequence[int]
    ) -> list[list[int]]:
        """The new tokens of each row, perhaps with padding behind its end token.

        `model.generate` pays for a finished row until the last one ends, so it is asked for a few tokens at a time and
        finished rows leave in between.
        """
        width = len(batch[0].prompt)
        pad = model.generation_config.pad_token_id
        lengths = torch.tensor([len(row.prompt) for row in batch], device=self._device)
        mask = (torch.arange(width, device=self._device) >= width - lengths.unsqueeze(-1)).long()
        tokens = torch.tensor([[pad] * (width - len(row.prompt)) + list(row.prompt) for row in batch]).to(self._device)
        numbers = self._numbers(batch, sampling) if sampling.temperature > 0 else None
        cache = empty_cache(model.config, width + sampling.max_new_tokens)
        is_stop = torch.tensor(stops, device=self._device)
        generated: list[list[int]] = [[] for _ in batch]
        open_rows = list(range(len(batch)))
        while open_rows:
            processors = LogitsProcessorList()
            if numbers is not None:
                processors.append(SeededSampler(numbers, width, sampling.temperature, sampling.top_p))
            before = tokens.shape[1]
            tokens = model.generate(
                input_ids=tokens,
                attention_mask=mask,
                logits_processor=processors,
                past_key_values=cache,
                max_new_tokens=min(_TOKENS_BETWEEN_SORTINGS, width + sampling.max_new_tokens - before),
            )
            new = tokens[:, before:]
            for index, added in zip(open_rows, new.tolist(), strict=True):
                generated[index].extend(added)
            if tokens.shape[1] == width + sampling.max_new_tokens:
                break
            kept = (~torch.isin(new, is_stop).any(dim=-1)).nonzero().squeeze(-1)
            open_rows = [open_rows[position] for position in kept.tolist()]
            cache.batch_select_indices(kept)
            tokens, mask = tokens[kept], torch.cat([mask[kept], mask.new_ones(len(kept), new.shape[1])], dim=-1)
            numbers = None if numbers is None else numbers[kept]
        return generated

    def _numbers(self, batch: Sequence[_Row], sampling: SamplingParams) -> Tensor:
        """One row of uniform numbers a completion, shape (rows, max_new_tokens)."""
        streams = [uniforms(sampling.seed, row.prompt, row.sample_index, sampling.max_new_tokens) for row in batch]
        return torch.from_numpy(np.stack(streams)).to(self._device)


def _load_tokenizer(checkpoint: Path) -> Any:
    """The tokenizer exactly as `tokenizer.json` describes it, where the folder names no class of its own.

    AutoTokenizer of transformers 5 goes by the model's type instead: it would read a plain word-level tokenizer beside
    a Qwen2 model as Qwen's byte-level one, and decode without spaces.
    """
    settings = checkpoint / "tokenizer_config.json"
    named = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class") if settings.is_file() else None
    is_plain = named in ("TokenizersBackend", "PreTrainedTokenizerFast") and (checkpoint / "tokenizer.json").is_file()
    loader = PreTrainedTokenizerFast if is_plain else AutoTokenizer
    return loader.from_pretrained(checkpoint, trust_remote_code=False, local_files_only=True)


def _stop_tokens(checkpoint: Path, model: Any, tokenizer: Any) -> list[int]:
    """End tokens: of generation_config.json, which may name several, else of the model, else of the tokenizer."""
    for source in (model.generation_config, model.config, tokenizer):
        found = getattr(source, "eos_token_id", None)
        if found is not None:
            return list(found) if isinstance(found, list | tuple) else [int(found)]
    raise UserError(f"checkpoint {checkpoint} names no end token: set eos_token_id in its generation_config.json")


def _completion(row: _Row, generated: Sequence[int], stops: Sequence[int], tokenizer: Any) -> Completion:
    end = next((position for position, token in enumerate(generated) if token in stops), None)
    token_ids = tuple(generated) if end is None else tuple(generated[: end + 1])
    text: str = tokenizer.decode(token_ids, skip_special_tokens=True)
    return Completion(row.problem_index, row.sample_index, token_ids, text, "length" if end is None else "stop")
