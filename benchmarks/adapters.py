"""Memory and time of full fine-tuning, LoRA and QLoRA: REDI steps on one model, each in its own process.

    python -m benchmarks.adapters FOLDER

FOLDER is a Hugging Face model. Steps have one pair of random traces of 512 tokens, in float32, with checkpointing of
activations. Memory is what is resident on a CPU, or what torch has allocated on a GPU, beyond the libraries.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any, final

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from benchmarks.training.workload import Shape, draw_pairs
from redi_lab.backbone.adapters import Adapters
from redi_lab.backbone.loading import load_backbone
from redi_lab.config.compose import load_config
from redi_lab.data.batches import BatchDataset
from redi_lab.data.packing import Batch
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.modules.redi import REDIModule

OPTIONS = ("none", "default", "qlora")
STEPS, PAIRS, LENGTH = 3, 1, 512


def resident(name: str) -> int:
    """Bytes by a line of /proc/self/status: VmRSS now, VmHWM at most since `forget_peak`."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def forget_peak(device: torch.device) -> None:
    """Let a new peak begin."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # what loading needed, and glibc keeps
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


@final
class Measure(pl.Callback):
    """Times each step, and keeps what is held after the last."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.held: dict[str, int] = {}

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """The first step allocates; those after it count."""
        if not self.seconds:
            forget_peak(pl_module.device)
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """The loss is read, so a GPU is done."""
        assert torch.isfinite(trainer.callback_metrics["train/loss"])
        self.seconds.append(time.perf_counter() - self._began)
        states = trainer.optimizers[0].state.values()
        self.held = {
            "weights": sum(p.nbytes for p in pl_module.parameters()),
            "gradients": sum(p.grad.nbytes for p in pl_module.parameters() if p.grad is not None),
            "moments": sum(t.nbytes for state in states for t in state.values()),
        }


def measure(folder: str, option: str) -> dict[str, float]:
    """Bytes and seconds of one way of training."""
    warnings.simplefilter("ignore")
    lora = load_config("train", [f"model/lora={option}", f"init_from={folder}", "loss=sft"]).model.lora
    before = resident("VmRSS")
    backbone = load_backbone(path=folder, gradient_checkpointing="full", adapters=lora and Adapters(**lora))
    optimizer = partial(torch.optim.AdamW, lr=1e-6, fused=True)
    module = REDIModule(backbone=backbone, alpha=0.8, optimizer=optimizer)
    vocabulary = backbone.head.weight.shape[0]
    shape = Shape("own", vocabulary, 0, 0, 0, 0, 0, median_length=LENGTH, longest=LENGTH)
    examples = [
        tuple(
            TokenizedSequence("", (*p["prompt"], *p[side]), len(p["prompt"]), is_chosen=side == "chosen")
            for side in ("chosen", "rejected")
        )
        for p in draw_pairs(shape, STEPS * PAIRS, length=LENGTH)
    ]
    data = BatchDataset(examples, LENGTH, split_examples=True)
    steps = [list(range(i, i + PAIRS)) for i in range(0, len(examples), PAIRS)]
    loader: DataLoader[Batch] = DataLoader(data, batch_size=None, sampler=steps)
    callback = Measure()
    quiet = {"enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.Trainer(max_epochs=1, callbacks=[callback], logger=False, **quiet).fit(module, loader)
    on_gpu = module.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else resident("VmHWM") - before
    return {**callback.held, "peak": peak, "seconds": sorted(callback.seconds[1:])[len(callback.seconds[1:]) // 2]}


def main(folder: str) -> None:
    """Print a line of the table for each."""
    print("| | weights MB | gradients MB | moments MB | peak of training MB | s a step |\n|---|---|---|---|---|---|")
    for option in OPTIONS:
        command = [sys.executable, "-m", "benchmarks.adapters", folder, option]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout.splitlines()[-1])
        sizes = [f"{found[key] / 1e6:,.0f}" for key in ("weights", "gradients", "moments", "peak")]
        print(f"| `model/lora={option}` | {' | '.join(sizes)} | {found['seconds']:.1f} |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        main(sys.argv[1])
    else:
        print(json.dumps(measure(*sys.argv[1:])))
