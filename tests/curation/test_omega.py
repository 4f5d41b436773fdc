"""Scores in the order of the traces, and weights of tokens as spans."""

from __future__ import annotations

import pytest
import torch

from redi_lab.curation.omega import as_spans, score_traces
from redi_lab.data.traces import Span
from tests.modules.tiny_runs import NaiveTwin, make_backbone, make_data, make_module


def test_spans_say_what_the_tokens_weigh() -> None:
    """Tokens end at 0, 2, 3 and 5; equal neighbours are one span, and the end-of-turn token shares the last one."""
    assert as_spans([0.5, 0.25, 0.25, 1.0, 0.0], [0, 2, 3, 5, 5]) == (
        Span(0, 1, 0.5),
        Span(1, 4, 0.25),
        Span(4, 6, 1.0),
    )
    assert as_spans([0.5, 0.75, 0.5, 0.1], [0, 0, 1, 1]) == (Span(0, 2, 0.5),)  # two tokens of one character


@pytest.mark.parametrize("budget", [90, 100_000])
def test_scores_are_those_of_single_passes_in_order(budget: int) -> None:
    """Where each token is predicted, however traces are packed and however many there are."""
    sequences = [sequence for (sequence,) in make_data("token_reward").train_examples] * 2
    module = make_module("token_reward", make_backbone())
    twin, head = NaiveTwin(module.backbone), module.backbone.reward_head
    assert head is not None
    assert len(sequences) > 64
    for sequence, scores in zip(sequences, score_traces(module.backbone, sequences, budget), strict=True):
        ids = torch.tensor([list(sequence.input_ids)])
        hidden = twin.model.model(input_ids=ids, use_cache=False).last_hidden_state[0, sequence.prompt_length - 1 : -1]
        torch.testing.assert_close(scores, (hidden @ head[0]).detach(), rtol=1e-4, atol=1e-5)


def test_a_model_without_a_head_scores_nothing() -> None:
    sequences = [sequence for (sequence,) in make_data("token_reward").train_examples]
    with pytest.raises(ValueError, match="add_reward_head comes first"):
        next(score_traces(make_backbone(), sequences, 1000))
