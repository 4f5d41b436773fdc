"""Attention by blocks of queries against an explicit softmax."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from redi_lab.backbone.attention_blocks import _BLOCK, blocked_causal_attention

HEADS, WIDTH = 4, 8
LENGTHS = [1, _BLOCK - 1, _BLOCK, _BLOCK + 1, 3 * _BLOCK + 5]


def random_heads(
    length: int, *, batch: int = 1, kv_heads: int = 2, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    shapes = [(batch, heads, length, WIDTH) for heads in (HEADS, kv_heads, kv_heads)]
    query, key, value = (torch.randn(shape, generator=generator).to(dtype) for shape in shapes)
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


def textbook(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """In fp64 with all scores at once."""
    groups = query.shape[1] // key.shape[1]
    key, value = (x.double().repeat_interleave(groups, dim=1) for x in (key, value))
    visible = torch.ones(query.shape[2], query.shape[2], dtype=torch.bool).tril()
    scores = (query.double() @ key.transpose(2, 3) * scale).masked_fill(~visible, -torch.inf)
    return scores.softmax(-1) @ value


def values_and_gradients(output: Tensor, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    signal = torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(output.dtype)
    return [output, *torch.autograd.grad((output * signal).sum(), inputs)]


@pytest.mark.parametrize(
    ("length", "kv_heads", "scale"),
    list(zip(LENGTHS, [HEADS, 2, 1, 2, 2], [None, 0.7, None, 0.7, None], strict=True)),
)
def test_fp32_equals_the_textbook(length: int, kv_heads: int, scale: float | None) -> None:
    inputs = random_heads(length, batch=2, kv_heads=kv_heads)
    before = [x.detach().clone() for x in inputs]
    ours = values_and_gradients(blocked_causal_attention(*inputs, scale), inputs)
    theirs = values_and_gradients(textbook(*inputs, WIDTH**-0.5 if scale is None else scale), inputs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(x, old) for x, old in zip(inputs, before, strict=True))


@pytest.mark.parametrize("sharpness", [1.0, 8.0])
def test_bf16_is_as_exact_as_that_of_torch(sharpness: float) -> None:
    """Also where the softmax is peaked: scores rounded to bf16 would be several times worse there."""
    inputs = random_heads(300, dtype=torch.bfloat16)
    inputs = ((inputs[0].detach() * sharpness).requires_grad_(), *inputs[1:])
    exact = values_and_gradients(textbook(*inputs, WIDTH**-0.5), inputs)
    ours = values_and_gradients(blocked_causal_attention(*inputs), inputs)
    theirs = values_and_gradients(scaled_dot_product_attention(*inputs, is_causal=True, enable_gqa=True), inputs)
    for a, b, c in zip(ours, theirs, exact, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a - c).norm() < 2.0 * (b - c).norm()


def test_no_token_sees_a_later_one() -> None:
    length = 2 * _BLOCK + 9
    for place in (0, _BLOCK - 1, _BLOCK, length - 1):
        inputs = random_heads(length)
        output = blocked_causal_attention(*inputs)
        gradients = torch.autograd.grad(output[:, :, place].square().sum(), inputs)
        assert not any(gradient[:, :, place + 1 :].any() for gradient in gradients)
        assert gradients[2][:, :, : place + 1].any(-1).all()  # of the values; each has some weight


def test_memory_grows_with_the_block() -> None:
    length = 5 * _BLOCK
    sizes: list[int] = []

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            sizes.extend(t.numel() for t in (result if isinstance(result, tuple) else [result]) if torch.is_tensor(t))
            return result

    inputs = random_heads(length)
    with Watch():  # type: ignore[no-untyped-call]
        values_and_gradients(blocked_causal_attention(*inputs), inputs)
    assert max(sizes) == HEADS * _BLOCK * length
