"""What a training will take, printed: steps and memory before the first step, time after the first few.

Where there is a plan, the run is held to it: `plan/...` says what was planned and what it came to.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, final

import pytorch_lightning as pl
import torch
from rich.markup import escape

from redi_lab.backbone.sharding import part
from redi_lab.callbacks.measuring import record
from redi_lab.files import as_size
from redi_lab.planning.rates import Planned

_MEASURED_STEPS = 3
"""After the first one, which is slower: memory is allocated, kernels are chosen."""
_ADAPTERS = (
    "model/lora=default trains adapters, which need little more than the weights, and model/lora=qlora keeps these in 4"
    " bits (docs/your-model.md)"
)


@final
class Forecast(pl.Callback):
    """Prints how many steps a training has, and what memory and time they take.

    Args:
        say: prints a line.
        make_plan: of the training on a device; None where it cannot be planned.
    """

    def __init__(
        self, say: Callable[[str], None], make_plan: Callable[[torch.device], Planned | None] = lambda device: None
    ) -> None:
        self._say = say
        self._make_plan = make_plan
        self._plan: Planned | None = None
        self._started = 0.0
        self.outcome: dict[str, float] = {}
        """`plan/peak_bytes`, `plan/seconds` and what was measured, once training has ended."""
        self._steps_seen = 0
        self._began = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the number of steps, and what memory they are going to take."""
        fixed, device = fixed_bytes(pl_module, trainer.optimizers[0]), pl_module.device
        plan = self._make_plan(device) if trainer.is_global_zero else None
        # Offloaded weights wait on the CPU; such trainings have no plan.
        free = free_bytes(next(pl_module.parameters()).device if plan is None else device)
        trained = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        # 4-bit weights lie packed, two in a byte; what they are is in their `quant_state`.
        total = sum(getattr(p, "quant_state", p).shape.numel() for p in pl_module.parameters())
        steps = _steps_left(trainer)
        more = "activations come on top" if plan is None else f"{as_size(plan.peak_bytes)} at the peak"
        self._say(
            f"{steps:,} step{'s' * (steps != 1)} in {trainer.precision}; {trained:,} of {total:,} parameters are"
            f" trained. Memory: {as_size(fixed)} for weights, gradients and optimizer, {more};"
            f" {as_size(free)} are free"
        )
        held = sum(part(p).nbytes for p in pl_module.parameters())  # in memory already, so not in what is free
        needed, base = (fixed, 0) if plan is None else (plan.peak_bytes, plan.base_bytes)
        if needed - base - held > free:
            remedy = plan and plan.remedy(free + base + held)
            advice = f"this would fit: {remedy}" if remedy else _ADAPTERS
            self._say(f"[yellow]That is more than is free: {escape(advice)}[/yellow]")
        self._plan = plan
        reset_peak(device)
        self._started = time.perf_counter()

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Hold the training against its plan, on the first rank, and remember how fast this device was."""
        plan, done = self._plan, self._steps_seen / max(1, trainer.estimated_stepping_batches)
        if plan is None or not done:
            return
        seconds = time.perf_counter() - self._started
        planned = {"peak_bytes": plan.peak_bytes} | ({} if plan.seconds is None else {"seconds": plan.seconds * done})
        measured = {"measured_peak_bytes": peak_bytes(pl_module.device), "measured_seconds": seconds}
        self.outcome = {f"plan/{name}": float(value) for name, value in (planned | measured).items()}
        record(trainer, self.outcome, trainer.global_step)
        plan.remember(plan.operations * done / seconds)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a few steps, extrapolate."""
        self._steps_seen += 1
        left = _steps_left(trainer)
        if self._steps_seen == 1:
            self._began = time.perf_counter()
        elif self._steps_seen == 1 + _MEASURED_STEPS and left:
            seconds = (time.perf_counter() - self._began) / _MEASURED_STEPS
            self._say(
                f"About {seconds:.2g} s a step: {timedelta(seconds=round(seconds * left))} for the {left:,} steps left,"
                f" the final evaluation not counted. Peak memory so far: {as_size(peak_bytes(pl_module.device))}"
            )


def plan_outcome(callbacks: Iterable[pl.Callback]) -> dict[str, float]:
    """What the forecast among the callbacks has found; empty without one, or without a plan."""
    return next((callback.outcome for callback in callbacks if isinstance(callback, Forecast)), {})


def fixed_bytes(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Weights, gradients, the optimizer's two moments (Adam; one for others) and the copy that `UpdateNorm` keeps."""
    copies = 2 + (2 if "betas" in optimizer.defaults else 1)
    return sum(part(p).nbytes * (1 + copies * p.requires_grad) for p in module.parameters())


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device; on a CPU, what Linux could give without swapping."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    info = Path("/proc/meminfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    available = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable")]
    return available[0] if available else int(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def peak_bytes(device: torch.device) -> int:
    """Peak memory so far: that of tensors on a GPU, or that of this process."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * 1024


def reset_peak(device: torch.device) -> None:
    """Let `peak_bytes` begin anew, where the system allows it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def _steps_left(trainer: pl.Trainer) -> int:
    return int(trainer.estimated_stepping_batches - trainer.global_step)
