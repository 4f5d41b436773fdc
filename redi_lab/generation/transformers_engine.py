"""The engine that runs everywhere: batched generation by transformers, with seeded sampling.

engine = TransformersEngine(max_batch_tokens=65_536)
request = Request(prompts, SamplingParams(0.6, 0.95, 1024, num_samples=4, seed=42))
for number, completions in engine.stream(folder, [request]):
    ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, LogitsProcessorList
from transformers.cache_utils import DynamicCache

from redi_lab.backbone.weights import check_loaded, check_vocabulary
from redi_lab.errors import UserError
from redi_lab.generation.checkpoint import Checkpoint, content_stamp, loading
from redi_lab.generation.engines import Completion, Progress, Request, SamplingParams
from redi_lab.generation.sampling import SeededSampler, uniforms

_TOKENS_BETWEEN_SORTINGS = 16  # steps between two looks for finished rows: leaving costs one copy of the KV cache


class _Row(NamedTuple):
    """One completion still to be generated."""

    problem_index: int
    sample_index: int
    prompt: tuple[int, ...]


@final
class TransformersEngine:
    """Batched `model.generate` of transformers: left padding, KV cache, SDPA, no remote code.

    Rows of a batch are of similar prompt length, and leave it when they are finished. Completions do not depend on the
    batch beyond rounding, see `redi_lab.generation.sampling`.

    Args:
        max_batch_tokens: Tokens that the KV cache of one batch may hold, prompts and new tokens together. For
            Qwen2.5-1.5B a token takes 28 KiB in bfloat16, so the default is 1.8 GiB.
        dtype: "float32", "bfloat16", or "auto" for the precision that the checkpoint was saved in.
        device: A torch device, or "auto" for CUDA where there is one, else the CPU.
    """

    name = "transformers"

    def __init__(self, max_batch_tokens: int = 65_536, dtype: str = "auto", device: str = "auto") -> None:
        self._max_batch_tokens = max_batch_tokens
        self._dtype = dtype
        self._device = torch.device(("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device)
        self._loaded: tuple[tuple[object, ...], Any, Checkpoint] | None = None

    @property
    def versions(self) -> Mapping[str, str]:
        """Versions of the libraries that decide the numbers."""
        return {"transformers": version("transformers"), "torch": version("torch")}

    @property
    def settings(self) -> Mapping[str, Any]:
        """Precision, kind of device, and batch budget (which moves rounding)."""
        return {"dtype": self._dtype, "device": self._device.type, "max_batch_tokens": self._max_batch_tokens}

    def stream(
        self, checkpoint: Path, requests: Sequence[Request], on_progress: Progress | None = None
    ) -> Iterator[tuple[int, list[Completion]]]:
        """See `Engine.stream`; yields one request after the other, as a whole.

        Raises:
            UserError: The folder cannot be loaded or names no end token; a prompt is empty; a prompt with its new
                tokens exceeds the model's positions or `max_batch_tokens`.
        """
        model, opened = self.load(checkpoint)
        for number, request in enumerate(requests):
            advance = on_progress and partial(_advance, on_progress, number)
            yield number, self.generate_with(model, opened, request.prompts, request.sampling, advance)

    def generate_with(
        self,
        model: Any,
        checkpoint: Checkpoint,
        prompts: Sequence[Sequence[int]],
        sampling: SamplingParams,
        on_progress: Progress | None = None,
    ) -> list[Completion]:
        """One request with a model that is in memory; its generation configuration is replaced.

        Args:
            model: A transformers causal LM in evaluation mode, on the engine's device.
            checkpoint: Its configuration, tokenizer and end tokens.
            prompts: Token ids of each prompt.
            sampling: How completions are drawn.
            on_progress: Called with (completions done, completions wanted).

        Raises:
            UserError: A prompt is empty, or with its new tokens exceeds the model's positions or `max_batch_tokens`.
        """
        checkpoint.check_lengths(prompts, sampling.max_new_tokens)
        self._check_budget(prompts, sampling.max_new_tokens)
        # A fresh configuration: generate() would fill what a request leaves open from the checkpoint's own settings.
        pad = checkpoint.tokenizer.pad_token_id
        model.generation_config = GenerationConfig(
            do_sample=False,
            eos_token_id=list(checkpoint.stops),
            pad_token_id=checkpoint.stops[0] if pad is None else pad,
        )
        rows = [
            _Row(problem, sample, tuple(prompt))
            for problem, prompt in enumerate(prompts)
            for sample in sampling.sample_indices
        ]
        completions: list[Completion] = []

        def report(num_finished: int) -> None:
            if on_progress is not None:
                on_progress(len(completions) + num_finished, len(rows))

        for batch in self._batches(rows, sampling.max_new_tokens):
            generated, logps = self._generate_batch(model, batch, sampling, checkpoint.stops, report)
            for row, tokens, scores in zip(batch, generated, logps, strict=True):
                kept = scores if sampling.wants_token_logps else None
                completions.append(checkpoint.completion(row.problem_index, row.sample_index, tokens, kept))
            report(0)
        return sorted(completions, key=lambda completion: (completion.problem_index, completion.sample_index))

    def close(self) -> None:
        """See `Engine.close`."""
        self._loaded = None

    def load(self, path: Path) -> tuple[Any, Checkpoint]:
        """The model of a folder in evaluation mode on the engine's device, and all else of it; kept until `close`.

        Raises:
            UserError: The folder cannot be loaded, or names no end token.
        """
        with loading(path):
            stamp = content_stamp(path)
            if self._loaded is not None and self._loaded[0] == stamp:
                return self._loaded[1:]
            self.close()  # before the next model needs the memory
            checkpoint = Checkpoint.open(path)
            model, found = AutoModelForCausalLM.from_pretrained(
                path,
                dtype=self._dtype if self._dtype == "auto" else getattr(torch, self._dtype),
                attn_implementation="sdpa",
                use_safetensors=True,
                trust_remote_code=False,
                local_files_only=True,
                ignore_mismatched_sizes=True,  # reported below, by name
                output_loading_info=True,
            )
        check_loaded(found, f"checkpoint {path}")
        check_vocabulary(model, checkpoint.tokenizer, f"checkpoint {path}")
        self._loaded = (stamp, model.to(self._device).eval(), checkpoint)
        return self._loaded[1:]

    def _check_budget(self, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> None:
        longest = max(map(len, prompts), default=0) + max_new_tokens
        if longest > self._max_batch_tokens:
            raise UserError(
                f"the longest prompt has {longest - max_new_tokens} tokens and sampling.max_new_tokens is"
                f" {max_new_tokens}: together {longest}, more than engine.max_batch_tokens={self._max_batch_tokens};"
                " raise that budget (it bounds the KV cache) or lower max_new_tokens"
            )

    def _batches(self, rows: Sequence[_Row], max_new_tokens: int) -> Iterator[list[_Row]]:
        """Batches of rows whose padded prompts and new tokens fit the budget, longest prompts first.

        The most expensive batch comes first, so that a budget which is too large fails at once.
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
        self,
        model: Any,
        batch: Sequence[_Row],
        sampling: SamplingParams,
        stops: Sequence[int],
        on_finished: Callable[[int], None],
    ) -> tuple[list[list[int]], list[list[float]]]:
        """The new tokens of each row, perhaps with padding behind its end token, and their log-probs if asked for.

        `model.generate` pays for a finished row until the last one ends, so it is asked for a few tokens at a time and
        finished rows leave in between.
        """
        width, longest = len(batch[0].prompt), len(batch[0].prompt) + sampling.max_new_tokens
        pad = model.generation_config.pad_token_id
        lengths = torch.tensor([len(row.prompt) for row in batch], device=self._device)
        mask = (torch.arange(width, device=self._device) >= width - lengths.unsqueeze(-1)).long()
        tokens = torch.tensor([[pad] * (width - len(row.prompt)) + list(row.prompt) for row in batch]).to(self._device)
        numbers = self._numbers(batch, sampling) if sampling.temperature > 0 else None
        cache = DynamicCache(config=model.config)
        is_stop = torch.tensor(stops, device=self._device)
        generated: list[list[int]] = [[] for _ in batch]
        logps: list[list[float]] = [[] for _ in batch]
        open_rows = list(range(len(batch)))
        while open_rows:
            sampler = SeededSampler(
                numbers, width, sampling.temperature, sampling.top_p, keeps_logps=sampling.wants_token_logps
            )
            before = tokens.shape[1]
            tokens = model.generate(
                input_ids=tokens,
                attention_mask=mask,
                logits_processor=LogitsProcessorList([sampler]),
                past_key_values=cache,
                max_new_tokens=min(_TOKENS_BETWEEN_SORTINGS, longest - before),
            )
            new = tokens[:, before:]
            for row, added in zip(open_rows, new.tolist(), strict=True):
                generated[row].extend(added)
            if sampler.logps:
                for row, scores in zip(open_rows, torch.stack(sampler.logps, dim=-1).tolist(), strict=True):
                    logps[row].extend(scores)
            if tokens.shape[1] == longest:
                break
            kept = (~torch.isin(new, is_stop).any(dim=-1)).nonzero().squeeze(-1)
            if 0 < len(kept) < len(open_rows):
                on_finished(len(batch) - len(kept))
            open_rows = [open_rows[position] for position in kept.tolist()]
            cache.batch_select_indices(kept)
            tokens, mask = tokens[kept], torch.cat([mask[kept], mask.new_ones(len(kept), new.shape[1])], dim=-1)
            numbers = None if numbers is None else numbers[kept]
        return generated, logps

    def _numbers(self, batch: Sequence[_Row], sampling: SamplingParams) -> Tensor:
        """Uniform numbers of each completion, shape (rows, max_new_tokens)."""
        streams = [uniforms(sampling.seed, row.prompt, row.sample_index, sampling.max_new_tokens) for row in batch]
        return torch.from_numpy(np.stack(streams)).to(self._device)


def _advance(on_progress: Progress, number: int, done: int, _: int) -> None:
    on_progress(number, done)
