"""Top-p sampling in which every random number belongs to one (seed, prompt, sample), whatever shares its batch.

The usual sampler draws from one global stream, so adding a sample or moving a problem changes every later completion.
Here each row of a batch has its own stream and spends one uniform number a step (inverse CDF), so a completion depends
on the seed, its prompt's tokens and its sample index, and on nothing else but rounding.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import LogitsProcessor


def uniforms(seed: int, prompt: Sequence[int], sample: int, count: int) -> NDArray[np.float64]:
    """The first `count` uniform numbers in [0, 1) of one completion's stream; equal prompts share their streams.

    Args:
        seed: Seed of the evaluation.
        prompt: Token ids; their hash, not the problem's position, names the stream.
        sample: Index of the sample.
        count: How many numbers; a longer request starts with the same ones.
    """
    prompt_key = int.from_bytes(hashlib.sha256(np.asarray(prompt, dtype=np.int64).tobytes()).digest()[:16], "big")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence((seed, prompt_key, sample)))).random(count)


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """Draw one token a row by inverse CDF from the tempered, top-p-filtered distribution.

    The cumulative sum runs in token order, not in order of probability: two tokens whose probabilities swap places
    by rounding then change no draw.

    Args:
        logits: Scores, shape (rows, vocabulary).
        uniform: Numbers in [0, 1), shape (rows,).
        temperature: Positive.
        top_p: In (0, 1].

    Returns:
        Token ids, shape (rows,).
    """
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    if top_p < 1:
        descending = probabilities.sort(dim=-1, descending=True).values
        # A token stays when the tokens before it hold less than top_p: the first always does. Ties stay together.
        is_kept = descending.cumsum(dim=-1) - descending < top_p
        smallest_kept = descending.masked_fill(~is_kept, 2.0).amin(dim=-1, keepdim=True)
        probabilities = probabilities.masked_fill(probabilities < smallest_kept, 0.0)
    cumulative = probabilities.double().cumsum(dim=-1)
    total = cumulative[:, -1:].contiguous()
    # Rounding may lift the target to the total; the first place that reaches it is the last possible token.
    last = torch.searchsorted(cumulative, total)
    drawn = torch.searchsorted(cumulative, uniform.to(total).unsqueeze(-1) * total, right=True)
    return torch.minimum(drawn, last).squeeze(-1)


@final
class SeededSampler(LogitsProcessor):
    """Turns greedy decoding into seeded sampling: leaves one token a row possible.

    Args:
        numbers: Uniform numbers, shape (rows, max_new_tokens); None takes the most probable token.
        prompt_width: Columns of the padded prompts, from which the step follows.
        temperature: Positive where there are numbers.
        top_p: In (0, 1].

    Attributes:
        logps: For each step the log-probs of the tokens taken, shape (rows,), under the scores before any sampling;
            filled where `keeps_logps`.
    """

    def __init__(
        self, numbers: Tensor | None, prompt_width: int, temperature: float, top_p: float, *, keeps_logps: bool = False
    ) -> None:
        self._numbers = numbers
        self._prompt_width = prompt_width
        self._temperature = temperature
        self._top_p = top_p
        self._keeps_logps = keeps_logps
        self.logps: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return scores that are 0 at the chosen token and −inf elsewhere, shape (rows, vocabulary)."""
        if self._numbers is None:
            chosen = scores.argmax(dim=-1)
        else:
            step = input_ids.shape[1] - self._prompt_width
            chosen = draw(scores, self._numbers[:, step], self._temperature, self._top_p)
        if self._keeps_logps:
            logps = torch.log_softmax(scores.float(), dim=-1)
            self.logps.append(logps.gather(-1, chosen.unsqueeze(-1)).squeeze(-1))
        return torch.full_like(scores, -torch.inf).scatter_(-1, chosen.unsqueeze(-1), 0.0)
