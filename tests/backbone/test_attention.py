"""Packed attention against a textbook one, on both of its code paths."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from redi_lab.backbone import attention
from redi_lab.backbone.attention import PACKED_SDPA, packed_arguments, packed_sdpa
from redi_lab.backbone.attention_blocks import blocked_causal_attention
from redi_lab.data.packing import MicroBatch, make_batch
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.errors import UserError

EVEN, UNEVEN = (5, 4, 6), (200, 1, 2, 1)  # a grid of 160,000 cells, where four calls cost 40,000 and as much again
HEADS, KV_HEADS, WIDTH = 4, 2, 8
LAYER = torch.nn.Identity()


def row_of(lengths: tuple[int, ...]) -> MicroBatch:
    sequences = [TokenizedSequence(str(i), [0] * n, 1) for i, n in enumerate(lengths)]
    batch = make_batch([(s,) for s in sequences], token_budget=sum(lengths), split_examples=True)
    (micro,) = batch.micro_batches
    assert micro.segment_lengths == lengths
    return micro


def random_heads(tokens: int, kv_heads: int = KV_HEADS) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, heads, tokens, WIDTH) for heads in (HEADS, kv_heads, kv_heads)]
    query, key, value = (torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes)
    return query.requires_grad_(), key.requires_grad_(), value.requires_grad_()


def textbook(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scaling: float) -> Tensor:
    """One explicit T × T mask: a token sees those before it in its own sequence."""
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    visible = (owner[:, None] == owner[None]) & torch.ones(len(owner), len(owner)).tril().bool()
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = (query @ key.transpose(2, 3) * scaling).masked_fill(~visible, -torch.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize(
    ("lengths", "calls", "kv_heads", "scaling"),
    [(EVEN, 1, KV_HEADS, None), (UNEVEN, 4, KV_HEADS, 0.7), ((7,), 1, 1, 0.7), (EVEN, 1, HEADS, 0.7)],
    ids=["grid", "split", "single", "ungrouped"],
)
def test_equals_the_textbook(
    lengths: tuple[int, ...], calls: int, kv_heads: int, scaling: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients, by the path that the lengths call for."""
    counted: list[int] = []

    def count(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
        counted.append(1)
        return scaled_dot_product_attention(query, key, value, **options)

    monkeypatch.setattr(attention, "scaled_dot_product_attention", count)
    heads = random_heads(sum(lengths), kv_heads)
    arguments = packed_arguments(row_of(lengths))
    output, weights = packed_sdpa(LAYER, *heads, None, scaling=scaling, is_causal=True, **arguments)
    assert weights is None
    assert len(counted) == calls
    expected = textbook(*heads, lengths, WIDTH**-0.5 if scaling is None else scaling)
    torch.testing.assert_close(output, expected, rtol=1e-12, atol=1e-12)

    signal = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = torch.autograd.grad((output * signal).sum(), heads)
    theirs = torch.autograd.grad((expected * signal).sum(), heads)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("autocast", "options", "is_blocked"),
    [(True, {}, True), (False, {}, False), (True, {"dropout": 0.5}, False)],
    ids=["mixed", "bf16 weights", "dropout"],
)
@pytest.mark.parametrize("lengths", [EVEN, UNEVEN], ids=["grid", "split"])
def test_mixed_precision_on_a_cpu_goes_by_blocks(
    lengths: tuple[int, ...],
    autocast: bool,
    options: dict[str, Any],
    is_blocked: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: list[int] = []

    def count(query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
        counted.append(1)
        return blocked_causal_attention(query, key, value, scale)

    monkeypatch.setattr(attention, "blocked_causal_attention", count)
    query, key, value = (x.detach().bfloat16() for x in random_heads(sum(lengths)))
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        output, _ = packed_sdpa(LAYER, query, key, value, None, **options, **packed_arguments(row_of(lengths)))
    assert bool(counted) == is_blocked
    if not options:
        expected = textbook(query.double(), key.double(), value.double(), lengths, WIDTH**-0.5)
        torch.testing.assert_close(output.double(), expected, rtol=0.02, atol=0.02)


@pytest.mark.gpu
@pytest.mark.parametrize("lengths", [EVEN, UNEVEN, (700, 300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_textbook_on_a_gpu(lengths: tuple[int, ...], dtype: torch.dtype) -> None:
    exact = random_heads(sum(lengths))
    query, key, value = heads = [x.detach().to("cuda", dtype).requires_grad_() for x in exact]
    row = row_of(lengths).to(torch.device("cuda"))
    output, _ = packed_sdpa(LAYER, query, key, value, None, **packed_arguments(row))
    expected = textbook(*exact, lengths, WIDTH**-0.5)
    signal = torch.randn(output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours = [output, *torch.autograd.grad((output * signal.to(output)).sum(), heads)]
    theirs = [expected, *torch.autograd.grad((expected * signal).sum(), exact)]
    for a, b in zip(ours, theirs, strict=True):
        assert (a.double().cpu() - b).norm() < (0.02 if dtype == torch.bfloat16 else 1e-4) * b.norm()


def test_what_describes_a_row() -> None:
    arguments = packed_arguments(row_of((2, 3)))
    tensors = {key: arguments.pop(key).tolist() for key in ("boundaries", "dense_slots")}
    assert tensors == {"boundaries": [0, 2, 5], "dense_slots": [0, 1, 3, 4, 5]}
    assert arguments == {"segment_lengths": (2, 3)}


@pytest.mark.parametrize("grouped_heads", ["asked for", "as they are", "repeated"])
def test_the_varlen_kernel_is_called_by_its_own_signature(grouped_heads: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch 2.11 and 2.13 name causality differently, and some versions do not know grouped heads."""
    called: dict[str, Any] = {}

    def keep(q: Tensor, k: Tensor, *rest: Any, **options: Any) -> Tensor:
        called.update(options, heads=k.shape[1], rest=rest[1:])
        return q

    def older(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=False, *, scale=None):  # type: ignore[no-untyped-def]
        return keep(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, is_causal=is_causal, scale=scale)

    def newer(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):  # type: ignore[no-untyped-def]
        return keep(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window_size=window_size, gqa=enable_gqa)

    monkeypatch.setattr(attention, "varlen_attn", older if grouped_heads == "repeated" else newer)
    heads = random_heads(11, HEADS if grouped_heads == "as they are" else KV_HEADS)
    ends = torch.tensor([0, 5, 11], dtype=torch.int32)
    output = attention._flash(*heads, ends, 6, 0.7)
    assert output.shape == (1, 11, HEADS, WIDTH)
    assert called.pop("scale") == 0.7
    assert called.pop("rest") == (ends, ends, 6, 6)
    assert (
        called
        == {
            "asked for": {"window_size": (-1, 0), "gqa": True, "heads": KV_HEADS},
            "as they are": {"window_size": (-1, 0), "gqa": False, "heads": HEADS},
            "repeated": {"is_causal": True, "heads": HEADS},
        }[grouped_heads]
    )


def test_dropout_reaches_the_kernel() -> None:
    heads = random_heads(sum(EVEN))
    arguments = packed_arguments(row_of(EVEN))
    torch.manual_seed(0)
    dropped, _ = packed_sdpa(LAYER, *heads, None, dropout=0.5, **arguments)
    assert not torch.allclose(dropped, packed_sdpa(LAYER, *heads, None, **arguments)[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"softcap": 30.0}, r"set model\.attention=padded"),
        ({"s_aux": torch.zeros(HEADS)}, r"set model\.attention=padded"),
        ({"sliding_window": 5}, r"6 tokens .* window of 5.*data\.max_sequence_tokens"),
    ],
)
def test_what_it_lacks_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        packed_sdpa(LAYER, *random_heads(sum(EVEN)), None, **(packed_arguments(row_of(EVEN)) | options))


def test_a_window_that_no_sequence_outgrows_is_no_window() -> None:
    heads = random_heads(sum(EVEN))
    arguments = packed_arguments(row_of(EVEN))
    windowed, _ = packed_sdpa(LAYER, *heads, None, sliding_window=6, **arguments)
    torch.testing.assert_close(windowed, packed_sdpa(LAYER, *heads, None, **arguments)[0], rtol=0, atol=0)


def test_a_mask_or_an_unpacked_row_is_refused() -> None:
    """As when a caller passes an attention mask, or runs the model without `packed_arguments`."""
    heads = random_heads(sum(EVEN))
    arguments = packed_arguments(row_of(EVEN))
    with pytest.raises(NotImplementedError, match="takes packed rows and no mask"):
        packed_sdpa(LAYER, *heads, torch.ones(1, 1, sum(EVEN), sum(EVEN)), **arguments)
    with pytest.raises(NotImplementedError, match="takes packed rows and no mask"):
        packed_sdpa(LAYER, *heads, None)


def test_transformers_finds_it_by_name() -> None:
    assert AttentionInterface()[PACKED_SDPA] is packed_sdpa
