"""Token weights by a token reward model: scores of traces, and weights of tokens as spans of characters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.data.packing import make_batch
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.data.traces import Span

_AT_ONCE = 64


@torch.no_grad()
def score_traces(model: CausalLM, sequences: Sequence[TokenizedSequence], token_budget: int) -> Iterator[Tensor]:
    """(|y|,) scores of the completion's tokens of each sequence, in order and on the CPU.

    Args:
        model: with a reward head, in evaluation mode.
        sequences: of at most `token_budget` tokens each.
        token_budget: most tokens of one forward pass.
    """
    for start in range(0, len(sequences), _AT_ONCE):
        part = sequences[start : start + _AT_ONCE]
        batch = make_batch([(one,) for one in part], token_budget=token_budget, split_examples=True)
        found: dict[int, Tensor] = {}
        for micro in (micro.to(model.device) for micro in batch.micro_batches):
            scores = torch.split(model.token_scores(micro).cpu(), list(micro.completion_lengths))
            found |= zip(micro.sequences.tolist(), scores, strict=True)
        yield from (found[place] for place in range(len(part)))


def as_spans(weights: Sequence[float], last_characters: Sequence[int]) -> tuple[Span, ...]:
    """Weights of tokens as those of the characters that they end with, as few spans as say the same.

    Of tokens that share their last character, as the end-of-turn token does, the first one's counts.

    Args:
        weights: of the tokens.
        last_characters: of each, see `TraceEncoder.last_characters`.
    """
    spans: list[Span] = []
    end = 0
    for weight, last in zip(weights, last_characters, strict=True):
        if last < end:
            continue
        start, end = end, last + 1
        if spans and spans[-1].weight == weight:
            start = spans.pop().start
        spans.append(Span(start, end, weight))
    return tuple(spans)
