"""What a training will take, printed: steps and memory before the first step, time after the first few."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, final

import pytorch_lightning as pl
import torch

from redi_lab.files import as_size

_MEASURED_STEPS = 3
"""After the first one, which is slower: memory is allocated, kernels are chosen."""


@final
class Forecast(pl.Callback):
    """Prints how many steps a training has, and what memory and time they take.

    Args:
        say: prints a line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._steps_seen = 0
        self._began = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the number of steps, and the memory that does not depend on the batches."""
        fixed = fixed_bytes(pl_module, trainer.optimizers[0])
        free = free_bytes(pl_module.device)
        trained = sum(p.numel() for p in pl_module.parameters() if p.requires_grad)
        # 4-bit weights lie packed, two in a byte; what they are is in their `quant_state`.
        total = sum(getattr(p, "quant_state", p).shape.numel() for p in pl_module.parameters())
        steps = _steps_left(trainer)
        self._say(
            f"{steps:,} step{'s' * (steps != 1)} in {trainer.precision}; {trained:,} of {total:,} parameters are"
            f" trained. Memory: {as_size(fixed)} for weights, gradients and optimizer, activations come on top;"
            f" {as_size(free)} are free"
        )
        held = sum(p.nbytes for p in pl_module.parameters())  # in memory already, so not in what is free
        if fixed - held > free:
            self._say(
                "[yellow]That is more than is free: model/lora=default trains adapters, which need little more than the"
                " weights, and model/lora=qlora keeps these in 4 bits (docs/your-model.md)[/yellow]"
            )

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


def fixed_bytes(module: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Weights, gradients, the optimizer's two moments (Adam; one for others) and the copy that `UpdateNorm` keeps."""
    copies = 2 + (2 if "betas" in optimizer.defaults else 1)
    return sum(p.nbytes * (1 + copies * p.requires_grad) for p in module.parameters())


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


def _steps_left(trainer: pl.Trainer) -> int:
    return int(trainer.estimated_stepping_batches - trainer.global_step)
