"""Trainings in processes of their own, which tests kill and start again; see test_resume.py.

The processes are forked from a server that has imported everything and computed nothing, so each starts within a
fraction of a second. Two ranks are started as a user does, by a command: python -m tests.callbacks.resume_runs.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any, final

import numpy as np
import pytorch_lightning as pl
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import AdamW
from transformers import get_scheduler

from redi_lab.backbone.adapters import Adapters
from redi_lab.backbone.sharding import part, whole
from redi_lab.callbacks.checkpoints import ExportCheckpoints
from redi_lab.callbacks.resume import TrainingStates
from redi_lab.callbacks.update_norm import UpdateNorm
from redi_lab.errors import EXIT_RESUMABLE, RunInterruptedError
from redi_lab.run.interrupted import ending_in_one_line
from redi_lab.tracking.logger import RunLogger
from tests.conftest import REPOSITORY
from tests.modules.tiny_runs import (
    HUGE,
    ONE_OF_EACH_CLASS,
    attach_reference,
    make_backbone,
    make_data,
    make_module,
    make_strategy,
)

BATCH_SIZES = {"sft": 8, "redi": 3, "unpaired_redi": 8, "dpo": 3, "simpo": 3} | dict.fromkeys(ONE_OF_EACH_CLASS, 3)
"""5 steps an epoch, of which the last is a small one; validation after the third."""
EPOCHS = 3
STEPS = 5 * EPOCHS
_SERVER = multiprocessing.get_context("forkserver")


@final
class Noise(pl.Callback):
    """Moves the weights by random numbers of every kind, and by a state of its own."""

    def __init__(self) -> None:
        self.calls = 0

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self.calls += 1
        scale = 1e-4 * (random.random() + np.random.rand()) * self.calls
        with torch.no_grad():
            for parameter in (p for p in pl_module.parameters() if p.requires_grad):
                rows = part(parameter)
                rows += scale * torch.randn_like(rows)

    def state_dict(self) -> dict[str, Any]:
        return {"calls": self.calls}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.calls = state_dict["calls"]


def train(
    folder: Path,
    objective: str,
    every_n_steps: int | None = 1,
    accumulates: bool = True,
    callbacks: Sequence[pl.Callback] = (),
    adapters: Adapters | None = None,
    **options: Any,
) -> None:
    """Train, resuming what is there, and leave final-RANK.safetensors; packed, in one micro-batch a step or several."""
    torch.set_num_threads(1)
    pl.seed_everything(5, verbose=False)
    data = make_data(objective, batch_size=BATCH_SIZES[objective], num_validation=4, budget=0 if accumulates else HUGE)
    module = make_module(
        objective, make_backbone(adapters=adapters), optimizer=partial(AdamW, lr=1e-3), scheduler=_cosine
    )
    if module.needs_reference or module.needs_token_reference:
        keeps_tokens = module.needs_token_reference
        attach_reference(data, make_backbone(seed=1), folder / "reference", keeps_tokens=keeps_tokens)
    states = TrainingStates(folder / "states", every_n_steps=every_n_steps, every_minutes=None)
    export = ExportCheckpoints(folder / "checkpoints", 0, every_n_steps=None, monitor="val/loss", mode="min")
    trainer = pl.Trainer(
        **{"accelerator": "cpu", "devices": 1} | options,
        max_epochs=EPOCHS,
        val_check_interval=3,
        logger=RunLogger(folder, objective),
        callbacks=[states, UpdateNorm(), export, Noise(), *callbacks],
        log_every_n_steps=1,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(module, datamodule=data)
    weights = {name: whole(parameter.detach()) for name, parameter in module.named_parameters()}
    save_file(weights, folder / f".final-{trainer.global_rank}")
    os.replace(folder / f".final-{trainer.global_rank}", folder / f"final-{trainer.global_rank}.safetensors")


def start(folder: Path, objective: str, **options: Any) -> Any:
    """Start `train` in a process; it exits as the command line does. Call `stop_server` when all is done."""
    _SERVER.set_forkserver_preload([__name__])
    process = _SERVER.Process(target=_run, args=(folder, objective, options))
    process.start()
    return process


def stop_server() -> None:
    """End the fork server, which others share, and let the next one import nothing of ours."""
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    _SERVER.set_forkserver_preload(["__main__"])  # what it is at first


def start_two_ranks(folder: Path, objective: str, strategy: str = "ddp") -> subprocess.Popen[bytes]:
    """Start `train` on two gloo ranks, in a process group of its own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SLURM"))}
    command = [sys.executable, "-W", "ignore", "-m", "tests.callbacks.resume_runs", str(folder), objective, strategy]
    return subprocess.Popen(
        command,
        cwd=REPOSITORY,
        env=environment | {"OMP_NUM_THREADS": "1"},
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def weights(folder: Path, rank: int = 0) -> dict[str, Tensor]:
    loaded: dict[str, Tensor] = load_file(folder / f"final-{rank}.safetensors")
    return loaded


def log(folder: Path) -> list[Mapping[str, Any]]:
    """Every line of metrics.jsonl, less what measures the machine."""
    ignored = ("time", "train/tokens_per_second")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in ignored} for line in lines]


def num_lines(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def send_at(
    process: Any, folder: Path, line: int, delay: float, number: signal.Signals, *, to_group: bool = False
) -> bool:
    """Send a signal a moment after the n-th line was logged; whether that came before the end."""
    is_running = process.is_alive if hasattr(process, "is_alive") else lambda: process.poll() is None
    while is_running() and num_lines(folder) < line:
        time.sleep(0.001)
    time.sleep(delay)
    if not is_running():
        return False
    (os.killpg if to_group else os.kill)(process.pid, number)
    return True


def _run(folder: Path, objective: str, options: dict[str, Any]) -> None:
    warnings.simplefilter("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with ending_in_one_line(folder):
            train(folder, objective, **options)
    except RunInterruptedError:
        sys.exit(EXIT_RESUMABLE)


def _cosine(optimizer: torch.optim.Optimizer, num_steps: int) -> Any:
    return get_scheduler("cosine", optimizer, num_warmup_steps=2, num_training_steps=num_steps)


if __name__ == "__main__":
    _run(Path(sys.argv[1]), sys.argv[2], {"devices": 2, "strategy": make_strategy(sys.argv[3])})
