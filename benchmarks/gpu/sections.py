"""What `measure.py` measures: each section takes a `Bench` and returns what it found, ready for JSON."""

from __future__ import annotations

import gc
import inspect
import math
import random
import statistics
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, final
from unittest.mock import patch

import pytorch_lightning as pl
import torch
import transformers
from pytorch_lightning.strategies import DDPStrategy
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel, varlen
from torch.nn.functional import scaled_dot_product_attention
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, Qwen2Config

from redi_lab.backbone import attention
from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.exactness import check_exactness
from redi_lab.backbone.loading import compile_layers, set_checkpointing
from redi_lab.callbacks.numerics import NumericsGuard
from redi_lab.callbacks.update_norm import UpdateNorm
from redi_lab.data.batches import BatchDataset
from redi_lab.data.packing import Batch, Reference, make_batch
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.losses import vocabulary
from redi_lab.losses.logps import token_logps, weighted_logp_sum
from redi_lab.losses.vocabulary import Groups, Head
from redi_lab.modules.base import CausalLMModule
from redi_lab.modules.dpo import DPOModule
from redi_lab.modules.redi import REDIModule
from redi_lab.modules.sft import SFTModule
from redi_lab.modules.simpo import SimPOModule
from redi_lab.planning.step import forward_work

BF16 = torch.bfloat16
PAIRS_OF_THE_PAPER = 53_175
OBJECTIVES: dict[str, Callable[..., CausalLMModule]] = {
    "redi": partial(REDIModule, alpha=0.8),
    "sft": SFTModule,
    "dpo": partial(DPOModule, beta=0.1, head_gradient="accumulate"),
    "simpo": partial(SimPOModule, beta=2.0, gamma=1.0, head_gradient="accumulate"),
}


@final
@dataclass
class Bench:
    """Where and at what sizes to measure: those of Qwen2.5-Math-1.5B, and the paper's longest traces."""

    device: str
    vocab_size: int = 151_936
    hidden_size: int = 1536
    layers: int = 28
    heads: int = 12
    kv_heads: int = 2
    intermediate_size: int = 8960
    longest: int = 19_800
    median: int = 4000

    @classmethod
    def make(cls, *, tiny: bool) -> Bench:
        """On a GPU, or at toy size on a CPU."""
        if tiny:
            torch.set_num_threads(1)
            return cls("cpu", 997, 64, 2, 4, 2, 96, 120, 30)
        if not torch.cuda.is_available():
            raise SystemExit("benchmarks.gpu.measure: no GPU here; --tiny runs it at toy size on a CPU")
        return cls("cuda")

    @property
    def width(self) -> int:
        """Of an attention head."""
        return self.hidden_size // self.heads

    def tidy(self) -> None:
        """Leave nothing of a section to the next one."""
        torch.use_deterministic_algorithms(False)
        gc.collect()
        if self.device == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()

    def wait(self) -> None:
        """Until the device has done all that it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()

    def time(self, run: Callable[[], Any], *, repeats: int = 5) -> dict[str, float]:
        """Median milliseconds of a call, and the GB that it needs beyond what is there."""
        run()
        run()
        self.wait()
        before = 0
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            run()
            self.wait()
            seconds.append(time.perf_counter() - began)
        return {"ms": round(1e3 * statistics.median(seconds), 3), "gb": round(self.peak_gb(before), 3)}

    def peak_gb(self, before: int = 0) -> float:
        """Most memory since the last reset, in GB; 0 on a CPU."""
        return (torch.cuda.max_memory_allocated() - before) / 1e9 if self.device == "cuda" else 0.0

    def normal(self, *shape: int, dtype: torch.dtype = BF16, scale: float = 1.0) -> Tensor:
        """Random numbers on the device."""
        return torch.randn(*shape, device=self.device).mul_(scale).to(dtype)

    def model(self, layers: int | None = None) -> CausalLM:
        """Random weights, made on the device, always the same."""
        config = Qwen2Config(
            vocab_size=self.vocab_size,
            hidden_size=self.hidden_size,
            num_hidden_layers=layers or self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.kv_heads,
            intermediate_size=self.intermediate_size,
            tie_word_embeddings=True,
            max_position_embeddings=40_960,
            eos_token_id=0,
            pad_token_id=0,
        )
        torch.manual_seed(0)
        with torch.device(self.device):
            model = AutoModelForCausalLM.from_config(
                config, dtype=torch.float32, attn_implementation=attention.PACKED_SDPA
            )
        return CausalLM(model, tokenizer=None)

    def flops(self, lengths: Sequence[int]) -> float:
        """Operations that a step needs, forward and backward, without recomputation: layers, attention, head."""
        layer = 2 * self.hidden_size * (self.hidden_size + self.kv_heads * self.width)
        layer += 3 * self.hidden_size * self.intermediate_size
        forward = forward_work(
            [(length, length) for length in lengths],
            products=self.layers * layer,
            attention_width=self.layers * self.hidden_size,
            head=self.hidden_size * self.vocab_size,
        )
        return 3.0 * sum(forward)


# A step of training


@final
class Clock(pl.Callback):
    """Seconds and loss of each step, and a profile of the last one where it is asked for."""

    def __init__(self, bench: Bench, *, profiled_step: int | None) -> None:
        self.bench, self.profiled_step = bench, profiled_step
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.profile: Any = None

    def on_train_batch_start(self, *_: Any) -> None:
        """Begin."""
        self.bench.wait()
        if len(self.seconds) == self.profiled_step:
            kinds = [torch.profiler.ProfilerActivity.CPU]
            kinds += [torch.profiler.ProfilerActivity.CUDA] if self.bench.device == "cuda" else []
            self.profile = torch.profiler.profile(activities=kinds)
            self.profile.__enter__()
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """End."""
        self.bench.wait()
        self.seconds.append(time.perf_counter() - self._began)
        if len(self.seconds) - 1 == self.profiled_step:
            self.profile.__exit__(None, None, None)
        self.losses.append(float(trainer.callback_metrics["train/loss"]))


def train(
    bench: Bench,
    lengths: Sequence[int],
    *,
    objective: str = "redi",
    row: int | None = None,
    checkpointing: str = "full",
    compiled: bool = False,
    chunk: int | None = None,
    steps: int = 3,
    profile: bool = False,
    callbacks: Sequence[pl.Callback] = (),
    **options: Any,
) -> dict[str, Any]:
    """Steps of `lengths`, two a pair, through Lightning; the first one is not counted, nor is the profiled one.

    Args:
        bench: sizes and device.
        lengths: tokens of each sequence.
        objective: see OBJECTIVES.
        row: most tokens of a forward pass; default: the longest sequence, or where pairs must meet the longest pair.
        checkpointing: "full", "selective" or "none".
        compiled: whether norms and MLPs are compiled.
        chunk: tokens of the head at a time.
        steps: that are counted.
        profile: also profile one more.
        callbacks: of Lightning.
        **options: of the trainer.
    """
    warnings.simplefilter("ignore")
    backbone = bench.model()
    backbone.head_chunk_tokens = chunk
    set_checkpointing(backbone.model, checkpointing)
    if compiled:
        compile_layers(backbone.model)
    module = OBJECTIVES[objective](
        backbone=backbone,
        optimizer=partial(torch.optim.AdamW, lr=1e-6, fused=True),
        max_grad_norm=1.0,
    )
    examples = make_examples(bench, lengths, is_single=objective == "sft")
    unit = max(lengths) if module.is_linear else max(a + b for a, b in zip(lengths[::2], lengths[1::2], strict=True))
    count = steps + 1 + profile
    data = BatchDataset(examples * count, row or unit, split_examples=module.is_linear)
    if module.needs_reference:
        data.reference = [[Reference(-float(len(s.input_ids))) for s in example] for example in data.examples]
    clock = Clock(bench, profiled_step=steps + 1 if profile else None)
    trainer = pl.Trainer(
        accelerator="gpu" if bench.device == "cuda" else "cpu",
        devices=1,
        max_epochs=1,
        precision="bf16-mixed",
        callbacks=[clock, *callbacks],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )
    if bench.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    size = len(examples)
    batches = [list(range(at, at + size)) for at in range(0, count * size, size)]
    loader: DataLoader[Batch] = DataLoader(data, batch_size=None, sampler=batches)
    trainer.fit(module, loader)
    return speed(bench, lengths, clock.seconds[1 : steps + 1]) | {
        "losses": clock.losses,
        **(kernels_of(clock.profile, clock.seconds[-1], bench) if profile else {}),
    }


def make_examples(bench: Bench, lengths: Sequence[int], *, is_single: bool) -> list[tuple[TokenizedSequence, ...]]:
    """Random tokens; a twentieth is prompt."""
    draw = random.Random(1)
    sequences = [
        TokenizedSequence(
            str(i), [draw.randrange(10, bench.vocab_size) for _ in range(n)], max(1, n // 20), is_chosen=i % 2 == 0
        )
        for i, n in enumerate(lengths)
    ]
    if is_single:
        return [(sequence,) for sequence in sequences]
    return list(zip(sequences[::2], sequences[1::2], strict=True))


def speed(bench: Bench, lengths: Sequence[int], seconds: Sequence[float]) -> dict[str, Any]:
    """What a step's median seconds amount to; hours are those of the paper's pairs if all were like these."""
    step, flops = statistics.median(seconds), bench.flops(lengths)
    return {
        "step_s": round(step, 4),
        "tokens_per_s": round(sum(lengths) / step),
        "tflops": round(flops / step / 1e12, 1),
        "peak_gb": round(bench.peak_gb(), 2),
        "hours_of_an_epoch": round(PAIRS_OF_THE_PAPER / (len(lengths) / 2) * step / 3600, 3),
    }


def kernels_of(profile: Any, seconds: float, bench: Bench) -> dict[str, Any]:
    """The device's time by kernel, the share of a step in which it had nothing to do, and how often it was asked."""
    events, key = profile.key_averages(), "self_device_time_total" if bench.device == "cuda" else "self_cpu_time_total"
    on_device = [e for e in events if str(e.device_type).endswith("CUDA")] or list(events)
    busy = sum(getattr(e, key) for e in on_device) / 1e6
    longest = sorted(on_device, key=lambda e: -getattr(e, key))[:30]
    asked = ("cudaLaunchKernel", "cudaStreamSynchronize", "cudaMemcpyAsync", "aten::_local_scalar_dense", "cudaMalloc")
    return {
        "kernels": [[e.key[:90], e.count, round(getattr(e, key) / 1e3, 2)] for e in longest],
        "idle_share": round(1.0 - busy / seconds, 3) if bench.device == "cuda" else None,
        "calls": {e.key: e.count for e in events if e.key in asked},
    }


@contextmanager
def as_it_was() -> Iterator[None]:
    """Without what was written for GPUs: torch's choice of SDPA for each sequence, plain torch in the head."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(attention, "_FASTEST_FIRST", TORCHS_ORDER))
        for place, name in ((attention, "_has_flash"), (vocabulary, "_is_fused"), (vocabulary, "_adds_up_in_fp32")):
            stack.enter_context(patch.object(place, name, lambda *_: False))
        yield


@contextmanager
def by_sequence() -> Iterator[None]:
    """Attention by a call for each sequence, however short they are."""
    with patch.object(attention, "LONG", 0):
        yield


@contextmanager
def in_one_call() -> Iterator[None]:
    """Attention by torch's flash kernel for sequences of different lengths, however long they are."""
    with patch.object(attention, "LONG", math.inf):
        yield


TORCHS_ORDER = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]


def pair(bench: Bench) -> list[int]:
    """The paper's longest."""
    return [bench.longest, bench.longest]


def was(bench: Bench) -> dict[str, Any]:
    """A step as it was before any of this: a chunk of 1,024 tokens, full checkpointing."""
    with as_it_was():
        return train(bench, pair(bench), chunk=1024)


def now(bench: Bench) -> dict[str, Any]:
    """The defaults."""
    return train(bench, pair(bench), profile=True)


def selective(bench: Bench) -> dict[str, Any]:
    """Attention and matrix products are kept."""
    return train(bench, pair(bench), checkpointing="selective", profile=True)


def one_call(bench: Bench) -> dict[str, Any]:
    """Attention of a row in one call."""
    with in_one_call():
        return train(bench, pair(bench))


def compiled(bench: Bench) -> dict[str, Any]:
    """Norms and MLPs compiled."""
    return train(bench, pair(bench), compiled=bench.device == "cuda")


def selective_compiled(bench: Bench) -> dict[str, Any]:
    """Compiled, and attention and the other matrix products kept."""
    return train(bench, pair(bench), compiled=bench.device == "cuda", checkpointing="selective", profile=True)


def paper_batch(bench: Bench, **options: Any) -> dict[str, Any]:
    """32 pairs with lengths like those of the paper's data: the step that a run repeats 1,662 times."""
    draw = random.Random(0)
    lengths: list[int] = []
    while len(lengths) < 64:
        length = round(math.exp(draw.gauss(math.log(bench.median), 0.7)))
        if 16 <= length <= bench.longest:
            lengths.append(length)
    return train(bench, lengths, row=bench.longest, steps=1, **options) | {"tokens": sum(lengths)}


def row_41k(bench: Bench) -> dict[str, Any]:
    """Both sides in one row."""
    return train(bench, pair(bench), row=2 * bench.longest)


def short(bench: Bench) -> dict[str, Any]:
    """60 traces of 660 tokens, two rows."""
    return train(bench, [bench.longest // 30] * 60, row=bench.longest)


def short_by_sequence(bench: Bench) -> dict[str, Any]:
    """The same with a call of attention for each trace."""
    with by_sequence():
        return train(bench, [bench.longest // 30] * 60, row=bench.longest)


def objective(name: str) -> Callable[[Bench], dict[str, Any]]:
    """A step of another objective."""
    return lambda bench: train(bench, pair(bench), objective=name, steps=2)


def with_callbacks(bench: Bench) -> dict[str, Any]:
    """What a run has on by default, and the norm of the update."""
    with tempfile.TemporaryDirectory() as folder:
        guard = NumericsGuard(Path(folder), action="stop", max_skips=10, explosion=10_000.0)
        return train(bench, pair(bench), steps=2, callbacks=[guard, UpdateNorm()])


def deterministic(bench: Bench) -> dict[str, Any]:
    """`deterministic: warn`, as in the paper's experiments."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    return train(bench, pair(bench), steps=2, deterministic="warn")


# What a step is made of


def machine(bench: Bench) -> dict[str, Any]:
    """Versions, and the two ceilings: products of the model's shapes, and memory."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if bench.device == "cuda" else "cpu",
        "varlen": str(inspect.signature(varlen.varlen_attn)),
        "triton": vocabulary._has_triton(),
        "adds_up_in_fp32": vocabulary._adds_up_in_fp32(torch.device(bench.device), BF16),
        "tflops": {},
    }
    length, hidden, big = bench.longest, bench.hidden_size, 8192 if bench.device == "cuda" else 256
    shapes = {
        "square": (big, big, big),
        "gate": (length, bench.intermediate_size, hidden),
        "down": (length, hidden, bench.intermediate_size),
        "query": (length, hidden, hidden),
        "head, 1,024 tokens": (1024, bench.vocab_size, hidden),
        "head, 4,096 tokens": (4096, bench.vocab_size, hidden),
    }
    many = 20 if bench.device == "cuda" else 1  # back to back, as in training: the start of a call is hidden
    for name, (m, n, k) in shapes.items():
        a, b = bench.normal(m, k), bench.normal(k, n)
        ms = bench.time(lambda a=a, b=b: [a @ b for _ in range(many)])["ms"]  # type: ignore[misc]
        found["tflops"][name] = round(2.0 * m * n * k * many / ms / 1e9, 2)
    x = torch.empty(2**30 if bench.device == "cuda" else 2**20, device=bench.device, dtype=BF16)
    y = torch.empty_like(x)
    found["copy_tb_per_s"] = round(4.0 * x.numel() / bench.time(lambda: y.copy_(x))["ms"] / 1e9, 3)
    return found


def exactness(bench: Bench) -> dict[str, Any]:
    """Packed rows and external head against the model's own forward pass, on this device, in both precisions."""
    backbone = bench.model()
    check_exactness(backbone)
    with torch.autocast(bench.device, BF16):
        check_exactness(backbone)
    kept, *again = (gradients_of_a_row(bench, backbone, mode) for mode in ("none", "full", "selective"))
    return {
        "fp32": "ok",
        "bf16": "ok",
        "largest gradient difference to no checkpointing": {
            mode: max(float((a - b).abs().max()) for a, b in zip(kept, found, strict=True))
            for mode, found in zip(("full", "selective"), again, strict=True)
        },
    }


def gradients_of_a_row(bench: Bench, backbone: CausalLM, mode: str) -> list[Tensor]:
    """Of the first layer's weights, for a row of three sequences."""
    set_checkpointing(backbone.model, mode)
    backbone.train()
    lengths = [bench.longest // 20, 7, bench.longest // 40]
    examples = make_examples(bench, lengths, is_single=True)
    (micro,) = make_batch(examples, token_budget=sum(lengths), split_examples=True).micro_batches
    layer = list(backbone.model.model.layers[0].parameters())
    with torch.autocast(bench.device, BF16):
        hidden = backbone.hidden_states(micro.to(torch.device(bench.device)))
    return list(torch.autograd.grad(hidden.float().square().sum(), layer))


def syncs(bench: Bench) -> dict[str, Any]:
    """Where the micro-batches of a step wait for the GPU, by line of code; two layers are enough for that."""
    return {name: waits_of(bench, name) for name in ("redi", "dpo")}


def waits_of(bench: Bench, name: str) -> dict[str, Any]:
    """Of one objective, after a first step that may wait for what is made once."""
    module = OBJECTIVES[name](backbone=bench.model(layers=2))
    module.manual_backward = lambda loss: loss.backward()  # type: ignore[method-assign]
    module._trainer = SimpleNamespace(world_size=1, strategy=SimpleNamespace(model=None))
    device, lengths = torch.device(bench.device), [bench.longest // 30] * 8
    batch = make_batch(
        make_examples(bench, lengths, is_single=False),
        token_budget=2 * lengths[0],
        split_examples=module.is_linear,
        reference=[Reference(-float(n)) for n in lengths] if module.needs_reference else None,
    )
    for field, value in vars(batch).items():
        if isinstance(value, torch.Tensor):
            setattr(batch, field, value.to(device))
    batch.micro_batches = [micro.to(device) for micro in batch.micro_batches]
    with torch.autocast(bench.device, BF16), warnings.catch_warnings(record=True) as told:
        module._accumulate_gradients(batch)
        warnings.simplefilter("always")
        if bench.device == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        module._accumulate_gradients(batch)
        if bench.device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    waits = [w for w in told if "synchroniz" in str(w.message)]
    places = Counter(f"{'/'.join(w.filename.split('/')[-2:])}:{w.lineno}" for w in waits)
    return {"micro_batches": len(batch.micro_batches), "waits": dict(places)}


def head(bench: Bench) -> dict[str, Any]:
    """Forward and backward over the vocabulary for the tokens of one trace, in all the lab's ways."""
    work = HeadWork.make(bench, bench.longest)
    found: dict[str, Any] = {}
    chunks = (1024, 4096, 8192, 16384) if bench.device == "cuda" else (64,)
    for chunk in chunks:
        found[f"fused, chunk {chunk}"] = bench.time(partial(work.weighted, chunk))
    with patch.object(vocabulary, "_adds_up_in_fp32", lambda *_: False):
        found["fused, head gradient rounded"] = bench.time(partial(work.weighted, chunks[min(1, len(chunks) - 1)]))
    with as_it_was():
        for chunk in chunks[:2]:
            found[f"plain torch, chunk {chunk}"] = bench.time(partial(work.weighted, chunk), repeats=3)
    chunk = chunks[min(1, len(chunks) - 1)]
    found["two passes (token_logps)"] = bench.time(partial(work.recomputed, chunk))
    found["in groups (DPO)"] = bench.time(partial(work.grouped, chunk))
    found["scoring"] = bench.time(partial(work.scored, chunk))
    found |= kernel_shapes(bench, chunk)
    return found


def kernel_shapes(bench: Bench, tokens: int) -> dict[str, Any]:
    """The softmax kernel alone, by columns and warps of a program."""
    if bench.device != "cuda":
        return {}
    from redi_lab.losses import fused_softmax

    logits = bench.normal(tokens, bench.vocab_size)
    targets = torch.randint(bench.vocab_size, (tokens,), device=bench.device)
    grads, logps = torch.ones(tokens, device=bench.device), torch.empty(tokens, device=bench.device)
    found: dict[str, Any] = {}
    for block, warps in ((2048, 8), (4096, 8), (8192, 8), (8192, 16), (16384, 16), (16384, 32), (32768, 32)):
        with patch.object(fused_softmax, "BLOCK", block), patch.object(fused_softmax, "WARPS", warps):
            run = partial(fused_softmax.softmax_, logits, targets, grads, logps, None, scale=1.0, softcap=None)
            timed = bench.time(run)
        found[f"kernel alone, {block} columns, {warps} warps"] = timed | {
            "tb_per_s": round(6.0 * logits.numel() / timed["ms"] / 1e9, 2)
        }
    return found


@final
@dataclass
class HeadWork:
    """N hidden states in bf16 and a head in fp32, as training with bf16-mixed has them."""

    hidden: Tensor
    weight: Tensor
    targets: Tensor
    token_weights: Tensor

    @classmethod
    def make(cls, bench: Bench, tokens: int) -> HeadWork:
        """Logits of a few nats, so that probabilities are neither even nor certain."""
        torch.manual_seed(0)
        hidden = bench.normal(tokens, bench.hidden_size).requires_grad_()
        weight = bench.normal(bench.vocab_size, bench.hidden_size, dtype=torch.float32, scale=0.05).requires_grad_()
        targets = torch.randint(bench.vocab_size, (tokens,), device=bench.device)
        return cls(hidden, weight, targets, torch.full((tokens,), -1.0 / tokens, device=bench.device))

    def head(self, chunk: int) -> Head:
        """The head, read in chunks of this many tokens."""
        return Head(self.weight, chunk_size=chunk)

    def back(self, total: Tensor) -> None:
        """Fill the gradients."""
        self.hidden.grad = self.weight.grad = None
        total.backward()  # type: ignore[no-untyped-call]

    def weighted(self, chunk: int) -> None:
        """As SFT and REDI do it."""
        self.back(weighted_logp_sum(self.hidden, self.head(chunk), self.targets, self.token_weights).total)

    def recomputed(self, chunk: int) -> None:
        """As what needs the values first does it."""
        logps = token_logps(self.hidden, self.head(chunk), self.targets).logps
        self.back((logps * self.token_weights).sum())

    def grouped(self, chunk: int) -> None:
        """As DPO and SimPO do it; two halves are a group each."""
        half = len(self.targets) // 2
        groups = Groups((half, len(self.targets) - half), lambda _, logps: torch.ones_like(logps))
        head = self.head(chunk)
        self.back(weighted_logp_sum(self.hidden, head, self.targets, self.token_weights, groups=groups).total)

    @torch.no_grad()
    def scored(self, chunk: int) -> None:
        """Forward alone."""
        token_logps(self.hidden, self.head(chunk), self.targets)


def head_errors(bench: Bench) -> dict[str, Any]:
    """Gradients of a mean log-prob against fp64, over all rows of the head and over those of tokens that never came."""
    work = HeadWork.make(bench, 4096 if bench.device == "cuda" else 64)
    truth, found = exact_gradients(work), {}
    for name, way in {"fused": nullcontext, "plain torch": as_it_was}.items():
        with way():
            work.weighted(1024)
        found[name] = relative_errors((work.hidden.grad, work.weight.grad), truth, work.targets)
    return found


def exact_gradients(work: HeadWork) -> tuple[Tensor, Tensor]:
    """In fp64, of the head as the products see it: in bf16."""
    hidden, weight = work.hidden.detach().double(), work.weight.detach().to(BF16).double()
    hidden_grad, weight_grad = torch.zeros_like(hidden), torch.zeros_like(weight)
    for rows in torch.arange(len(hidden), device=hidden.device).split(512):
        shares = (hidden[rows] @ weight.T).softmax(-1)
        shares[torch.arange(len(rows), device=rows.device), work.targets[rows]] -= 1.0
        shares *= -work.token_weights[rows].double()[:, None]
        hidden_grad[rows] = shares @ weight
        weight_grad += shares.T @ hidden[rows]
    return hidden_grad, weight_grad


def relative_errors(found: Sequence[Any], truth: Sequence[Tensor], targets: Tensor) -> dict[str, float]:
    """‖found − truth‖ / ‖truth‖ of the hidden states', the head's, and the head's at rows that are nobody's target."""
    rare = torch.ones(len(truth[1]), dtype=torch.bool, device=targets.device).index_fill_(0, targets, False)
    places = {"hidden": (0, slice(None)), "head": (1, slice(None)), "head, other tokens": (1, rare)}
    return {
        name: float((found[at][rows].double() - truth[at][rows]).norm() / truth[at][rows].norm())
        for name, (at, rows) in places.items()
    }


def peer(family: str, package: str) -> Callable[[Bench], dict[str, Any]]:
    """The same mean by another package's kernels: time, memory, and errors as in `head_errors`."""

    def measure(bench: Bench) -> dict[str, Any]:
        if find_spec(package) is None:
            return {"error": f"not measured: {package} is not installed"}
        found: dict[str, Any] = {}
        small = HeadWork.make(bench, 4096 if bench.device == "cuda" else 64)
        truth, errors = exact_gradients(small), peer_heads(small)
        for name, run in peer_heads(HeadWork.make(bench, bench.longest)).items():
            if name.startswith(family):
                found[name] = bench.time(run, repeats=3) | relative_errors(errors[name](), truth, small.targets)
        return found

    return measure


def peer_heads(work: HeadWork) -> dict[str, Callable[[], Any]]:
    """Each computes −mean log-prob from a bf16 head and returns the gradients of hidden states and head."""
    weight = work.weight.detach().to(BF16).requires_grad_()

    def back(loss: Tensor) -> tuple[Any, Any]:
        return torch.autograd.grad(loss, (work.hidden, weight))  # type: ignore[return-value]

    def liger(**options: Any) -> tuple[Any, Any]:
        from liger_kernel.ops.fused_linear_cross_entropy import LigerFusedLinearCrossEntropyFunction

        arguments = inspect.signature(LigerFusedLinearCrossEntropyFunction.forward).parameters
        given = [options.get(name, p.default) for name, p in list(arguments.items())[4:]]
        out = LigerFusedLinearCrossEntropyFunction.apply(work.hidden, weight, work.targets, *given)
        return back(out[0] if isinstance(out, tuple) else out)

    def cut(**options: Any) -> tuple[Any, Any]:
        from cut_cross_entropy import linear_cross_entropy

        return back(linear_cross_entropy(work.hidden, weight, work.targets, impl="cce", **options))

    return {
        "Liger": liger,
        "Liger, fp32 sums": partial(liger, accum_dtype=torch.float32),
        "Cut-Cross-Entropy": cut,
        "Cut-Cross-Entropy, no filter": partial(cut, filter_eps=None),
    }


def attend(bench: Bench) -> dict[str, Any]:
    """Attention of a row alone, forward and backward: a call for each sequence by several kernels, and one for all."""
    found: dict[str, Any] = {}
    n = bench.longest
    for name, lengths in {"1 × 19.8k": [n], "10 × 4k": [n // 5] * 10, "60 × 660": [n // 30] * 60}.items():
        heads = [bench.normal(1, h, sum(lengths), bench.width) for h in (bench.heads, bench.kv_heads, bench.kv_heads)]
        for tensor in heads:
            tensor.requires_grad_()
        ends = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32, device=bench.device)
        signal = bench.normal(1, sum(lengths), bench.heads, bench.width)
        flops = 2.0 * sum(m * m for m in lengths) * bench.hidden_size
        ways: dict[str, tuple[Callable[..., Tensor], tuple[SDPBackend, ...]]] = {
            "SDPA": (partial(each, lengths), ()),
            "SDPA, cuDNN": (partial(each, lengths), (SDPBackend.CUDNN_ATTENTION,)),
            "SDPA, flash": (partial(each, lengths), (SDPBackend.FLASH_ATTENTION,)),
        }
        if bench.device == "cuda":
            ways["varlen"] = (lambda q, k, v, e=ends, m=lengths: attention._flash(q, k, v, e, max(m), None), ())
        for way, (run, backends) in ways.items():
            if bench.device != "cuda" and backends:
                continue
            found[f"{name}, {way}"] = time_attention(bench, run, backends, heads, signal, flops)
    return found


def each(lengths: Sequence[int], query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """(1, heads, T, d) → (1, T, heads, d), sequence by sequence."""
    parts = zip(*(x.split(list(lengths), dim=2) for x in (query, key, value)), strict=True)
    done = [scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True) for q, k, v in parts]
    return torch.cat(done, dim=2).transpose(1, 2)


def time_attention(
    bench: Bench,
    run: Callable[..., Tensor],
    backends: Sequence[SDPBackend],
    heads: Sequence[Tensor],
    signal: Tensor,
    flops: float,
) -> dict[str, Any]:
    """Milliseconds and rates of the forward and of both passes."""
    try:
        with sdpa_kernel(list(backends)) if backends else nullcontext():
            forward = bench.time(lambda: run(*heads))
            both = bench.time(lambda: torch.autograd.grad(run(*heads), heads, signal))
    except Exception as error:
        return {"error": repr(error)[:200]}
    backward = max(both["ms"] - forward["ms"], 1e-3)
    return {
        "forward_ms": forward["ms"],
        "both_ms": both["ms"],
        "gb": both["gb"],
        "forward_tflops": round(flops / forward["ms"] / 1e9, 1),
        "backward_tflops": round(2.5 * flops / backward / 1e9, 1),
    }


def one_rank(bench: Bench) -> dict[str, Any]:
    """DDP with a world of one: NCCL's set-up, buckets as views of gradients, and the step's cost with them."""
    backend = "nccl" if bench.device == "cuda" else "gloo"
    strategy = DDPStrategy(process_group_backend=backend, gradient_as_bucket_view=True)
    return train(bench, pair(bench), steps=2, strategy=strategy)


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "machine": machine,
    "exactness": exactness,
    "was": was,
    "now": now,
    "selective": selective,
    "attention": attend,
    "paper_batch": paper_batch,
    "one_call": one_call,
    "head": head,
    "syncs": syncs,
    "selective_compiled": selective_compiled,
    "compiled": compiled,
    "short": short,
    "dpo": objective("dpo"),
    "simpo": objective("simpo"),
    "liger": peer("Liger", "liger_kernel"),
    "cut_cross_entropy": peer("Cut", "cut_cross_entropy"),
    "head_errors": head_errors,
    "row_41k": row_41k,
    "short_by_sequence": short_by_sequence,
    "paper_batch_selective": partial(paper_batch, checkpointing="selective"),
    "sft": objective("sft"),
    "callbacks": with_callbacks,
    "deterministic": deterministic,
    "one_rank": one_rank,
}
