from __future__ import annotations

import numpy as np
import pytest
import torch

from redi_lab.generation.sampling import SeededSampler, draw, uniforms


def test_draw_by_hand() -> None:
    """Probabilities .1 .5 .4; top-p .85 keeps .5 and .4, so the first 5/9 of the line is token 1, the rest token 2."""
    logits = torch.tensor([[0.1, 0.5, 0.4]]).log().expand(4, 3)
    numbers = torch.tensor([0.0, 0.5, 0.56, 0.999999], dtype=torch.float64)
    assert draw(logits, numbers, temperature=1.0, top_p=0.85).tolist() == [1, 1, 2, 2]
    assert draw(logits, numbers, temperature=1.0, top_p=1.0).tolist() == [0, 1, 1, 2]
    assert draw(logits, numbers, temperature=1.0, top_p=0.01).tolist() == [1, 1, 1, 1]


def test_draw_never_takes_an_impossible_token() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf]]).expand(3, 5)
    numbers = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)  # 1.0 stands for a target rounded up
    assert draw(logits, numbers, temperature=0.5, top_p=1.0).tolist() == [1, 3, 3]


def test_draw_follows_the_tempered_distribution() -> None:
    logits = torch.randn(6, generator=torch.Generator().manual_seed(0))
    numbers = torch.from_numpy(np.random.default_rng(0).random(40_000))
    drawn = draw(logits.expand(40_000, 6), numbers, temperature=0.7, top_p=1.0)
    expected = torch.softmax(logits / 0.7, dim=-1)
    assert torch.bincount(drawn, minlength=6).div(40_000).sub(expected).abs().max() < 0.01


def test_streams_are_named_by_seed_prompt_and_sample() -> None:
    first = uniforms(1, [5, 6], 0, 8)
    assert np.array_equal(first, uniforms(1, [5, 6], 0, 20)[:8])
    others = [uniforms(2, [5, 6], 0, 8), uniforms(1, [6, 5], 0, 8), uniforms(1, [5, 6], 1, 8)]
    assert not any(np.isclose(first, other).any() for other in others)


def test_sampler_leaves_one_token_possible() -> None:
    sampler = SeededSampler(torch.tensor([[0.1, 0.9]], dtype=torch.float64), prompt_width=2, temperature=1.0, top_p=1.0)
    for columns, token in ((2, 0), (3, 1)):
        scores = sampler(torch.zeros(1, columns, dtype=torch.long), torch.zeros(1, 2))
        assert scores.argmax(dim=-1).tolist() == [token]
        assert scores.isinf().sum() == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_scores_are_drawn_in_full(dtype: torch.dtype) -> None:
    logits = torch.zeros(1, 4096, dtype=dtype)
    assert draw(logits, torch.tensor([0.75], dtype=torch.float64), temperature=1.0, top_p=1.0).item() == 3072
