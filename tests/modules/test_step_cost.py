"""What a step costs, by counting: products with the vocabulary, sizes of tensors, bytes alive. No stopwatch."""

from __future__ import annotations

import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.data.batches import BatchDataset
from redi_lab.data.packing import Reference
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.losses import vocabulary
from tests.modules.tiny_runs import (
    HARMLESS_WARNINGS,
    OBJECTIVES,
    attach_reference,
    fit,
    make_backbone,
    make_data,
    make_module,
    relative_error,
    tokenizer,
)

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]
VOCABULARY, HIDDEN, CHUNK = 4001, 16, 32
LENGTHS = ((70, 40), (90, 60))  # of two pairs
PROMPT = 10
COMPLETION_TOKENS = sum(map(sum, LENGTHS)) - 4 * PROMPT
KINDS = [(name, None) for name in OBJECTIVES if name != "unpaired_redi"] + [
    ("dpo", "recompute"),
    ("simpo", "recompute"),
]
every_kind = pytest.mark.parametrize(("objective", "head_gradient"), KINDS)


class ShapeWatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Shapes of all tensors made, and of the operands of matrix products."""

    PRODUCTS = (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_, torch.ops.aten.bmm)

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = 0
        self.vocabulary_products = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        made = [t for t in (result if isinstance(result, tuple | list) else [result]) if isinstance(t, Tensor)]
        self.largest = max([self.largest, *(t.numel() for t in made)])
        if func.overloadpacket in self.PRODUCTS:
            shapes = [t.shape for t in (*args, *made) if isinstance(t, Tensor)]
            self.vocabulary_products += any(VOCABULARY in shape for shape in shapes)
        return result


def wide_backbone(**options: Any) -> CausalLM:
    """A body of next to nothing under a wide head."""
    backbone = make_backbone()
    config = backbone.model.config.to_dict() | {"vocab_size": VOCABULARY}
    torch.manual_seed(0)
    model = type(backbone.model)(type(backbone.model.config)(**config))
    model.set_attn_implementation("packed_sdpa")
    return CausalLM(model, tokenizer(), head_chunk_tokens=CHUNK, **options)


def random_pairs(task: str) -> list[tuple[TokenizedSequence, ...]]:
    generator = torch.Generator().manual_seed(0)
    pairs = [
        tuple(
            TokenizedSequence(
                f"{i}", tuple(torch.randint(VOCABULARY, (n,), generator=generator).tolist()), PROMPT, is_chosen=k == 0
            )
            for k, n in enumerate(lengths)
        )
        for i, lengths in enumerate(LENGTHS)
    ]
    return pairs if task == "pairs" else [(sequence,) for pair in pairs for sequence in pair]


def make_step(objective: str, head_gradient: str | None) -> Any:
    """A function that takes the gradients of one global batch, all in one row."""
    options = {} if head_gradient is None else {"head_gradient": head_gradient}
    module = make_module(objective, wide_backbone(), **options)
    data = BatchDataset(random_pairs(module.task), 1000, split_examples=module.is_linear)
    data.reference = [[Reference(-500.0), Reference(-400.0)]] * 2 if module.needs_reference else None
    batch = data[list(range(len(data.examples)))]
    assert len(batch.micro_batches) == 1

    def step() -> None:
        weights = None
        if module.is_linear or module.head_gradient == "accumulate":
            weights = module._linear_form(batch)
        loss, _ = module._micro_loss(batch.micro_batches[0], batch, weights)
        torch.autograd.backward(loss)

    return step


@every_kind
def test_products_with_the_vocabulary(objective: str, head_gradient: str | None) -> None:
    """Logits, gradient of hidden, gradient of the head: three a chunk; recomputing makes the logits a second time."""
    if head_gradient is None and objective in ("dpo", "simpo"):  # whole pairs; each is longer than a chunk
        chunks = sum(-(-(sum(pair) - 2 * PROMPT) // CHUNK) for pair in LENGTHS)
    else:
        chunks = -(-COMPLETION_TOKENS // CHUNK)
    with ShapeWatch() as watch:
        make_step(objective, head_gradient)()
    assert watch.vocabulary_products == (4 if head_gradient == "recompute" else 3) * chunks


@every_kind
def test_no_tensor_is_larger_than_a_chunk_of_logits(objective: str, head_gradient: str | None) -> None:
    step = make_step(objective, head_gradient)
    with ShapeWatch() as watch:
        step()
    assert watch.largest == CHUNK * VOCABULARY
    assert watch.largest > HIDDEN * VOCABULARY  # else the head would hide it


@pytest.mark.parametrize(
    ("objective", "head_gradient", "heads"),
    # The head's own gradient and the embedding's (they are tied); a third one holds that of a long pair.
    [("sft", None, 2), ("redi", None, 2), ("dpo", None, 3), ("simpo", None, 3), ("dpo", "recompute", 2)],
)
def test_most_bytes_alive(
    objective: str, head_gradient: str | None, heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By torch's own account: one chunk of logits, some copies of the head, and what the small body leaves."""
    make_step(objective, head_gradient)()
    step = make_step(objective, head_gradient)
    monkeypatch.setattr(vocabulary, "_kept", threading.local())  # the chunk of the step before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as recorded:
        step()
    events = [e for e in recorded.profiler.kineto_results.events() if e.name() == "[memory]"]
    alive = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        alive += event.nbytes()
        peak = max(peak, alive)
    chunk, head = 4 * CHUNK * VOCABULARY, 4 * HIDDEN * VOCABULARY
    body = 4 * HIDDEN * sum(map(sum, LENGTHS)) * 32  # activations of two layers
    assert chunk + heads * head < peak < chunk + heads * head + body


@pytest.mark.parametrize("objective", ["dpo", "simpo"])
def test_accumulating_and_recomputing_agree(objective: str, tmp_path: Path) -> None:
    """One optimizer step of each on packed micro-batches, also far from where training began."""
    taps = []
    for head_gradient in ("accumulate", "recompute"):
        data = make_data(objective, budget=0)
        if objective == "dpo":
            attach_reference(data, make_backbone(seed=1), tmp_path)
        rate = partial(torch.optim.SGD, lr=0.01)
        module = make_module(objective, make_backbone(), head_gradient=head_gradient, optimizer=rate)
        taps.append(fit(module, data, max_steps=3).tap)
    for ours, theirs in zip(taps[0].gradients, taps[1].gradients, strict=True):
        assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize(
    ("precision", "dtype", "moves"), [("bf16-mixed", "float32", True), ("bf16-true", "bfloat16", False)]
)
def test_weights_kept_in_fp32_move_at_the_rate_of_the_paper(precision: str, dtype: str, moves: bool) -> None:
    """AdamW's first step is the rate, 1e-6; a bfloat16 of 0.3 next to which it is has a spacing of 1e-3."""
    backbone = make_backbone(dtype=dtype)
    before = [p.detach().float().clone() for p in backbone.parameters()]
    module = make_module("redi", backbone, optimizer=partial(torch.optim.AdamW, lr=1e-6, weight_decay=0.0, fused=True))
    fit(module, make_data("redi"), precision=precision)
    changed = [(p.detach().float() != b) for p, b in zip(backbone.parameters(), before, strict=True)]
    share = torch.cat([c.flatten() for c in changed]).float().mean().item()
    assert (share > 0.9) if moves else (share < 0.1)


def test_the_head_computes_in_the_precision_of_the_trainer() -> None:
    """bf16-mixed must reach the products with the vocabulary, which dominate."""
    dtypes: set[torch.dtype] = set()

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            operands = [a for a in args if isinstance(a, Tensor)]
            if func.overloadpacket in ShapeWatch.PRODUCTS and any(len(tokenizer()) in a.shape for a in operands):
                dtypes.update(a.dtype for a in operands)
            return func(*args, **(kwargs or {}))

    module, data = make_module("redi", make_backbone()), make_data("redi")
    with Watch():  # type: ignore[no-untyped-call]
        fit(module, data, precision="bf16-mixed")
    assert dtypes == {torch.bfloat16}
