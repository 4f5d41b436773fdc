"""redi_lab's side: a Lightning run of the lab's module, data set and packing; started by `against_trl.py`."""

from __future__ import annotations

import sys
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any, final

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader

from benchmarks.training.pace import Pace
from benchmarks.training.workload import Workload
from redi_lab.backbone.loading import load_backbone
from redi_lab.backbone.reference import score_reference
from redi_lab.data.batches import BatchDataset
from redi_lab.data.packing import Batch
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.modules.base import CausalLMModule
from redi_lab.modules.dpo import DPOModule
from redi_lab.modules.redi import REDIModule
from redi_lab.modules.sft import SFTModule
from redi_lab.modules.simpo import SimPOModule


@final
class Paced(pl.Callback):
    """Waits before each step."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._loss: float | None = None

    def on_train_batch_start(self, *_: Any) -> None:
        """Tell of the step before."""
        self._pace.report_and_wait(self._loss)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Remember the loss."""
        self._loss = float(trainer.callback_metrics["train/loss"])

    def on_train_end(self, *_: Any) -> None:
        """Tell of the last one."""
        self._pace.report_and_wait(self._loss, is_last=True)


def make_examples(work: Workload) -> list[tuple[TokenizedSequence, ...]]:
    """Pairs, or for SFT each of their completions."""
    pairs = [
        tuple(
            TokenizedSequence(
                f"{i}/{side}", (*pair["prompt"], *pair[side]), len(pair["prompt"]), is_chosen=side == "chosen"
            )
            for side in ("chosen", "rejected")
        )
        for i, pair in enumerate(work.pairs)
    ]
    return [(sequence,) for pair in pairs for sequence in pair] if work.objective == "sft" else pairs


def make_module(work: Workload, backbone: Any) -> CausalLMModule:
    """The objective, with fused AdamW and clipping."""
    options: dict[str, Any] = {
        "backbone": backbone,
        "optimizer": partial(torch.optim.AdamW, lr=work.learning_rate, weight_decay=0.0, fused=True),
        "max_grad_norm": work.max_grad_norm,
    }
    if work.objective == "sft":
        return SFTModule(**options)
    if work.objective == "redi":
        return REDIModule(alpha=work.alpha, **options)
    if work.objective == "dpo":
        return DPOModule(beta=work.beta, head_gradient="accumulate", **options)
    return SimPOModule(beta=work.simpo_beta, gamma=work.simpo_gamma, head_gradient="accumulate", **options)


def train(work: Workload, callback: pl.Callback) -> None:
    """One way through the pairs of the workload."""
    warnings.simplefilter("ignore")
    backbone = load_backbone(
        path=work.model, gradient_checkpointing=work.gradient_checkpointing, attention=work.attention
    )
    module = make_module(work, backbone)
    examples = make_examples(work)
    data = BatchDataset(examples, work.micro_batch_tokens, split_examples=module.is_linear)
    per_step = work.pairs_per_step * (2 if work.objective == "sft" else 1)
    steps = [list(range(i, i + per_step)) for i in range(0, len(examples), per_step)]
    trainer = pl.Trainer(
        max_epochs=1,
        precision="bf16-mixed" if work.precision == "bf16" else "32-true",
        callbacks=[callback],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    if module.needs_reference:
        backbone.to(trainer.strategy.root_device)
        with tempfile.TemporaryDirectory() as cache, trainer.precision_plugin.forward_context():
            data.reference = score_reference(backbone, data, keeps_tokens=False, cache_dir=Path(cache))
    loader: DataLoader[Batch] = DataLoader(data, batch_size=None, sampler=steps)
    trainer.fit(module, loader)


if __name__ == "__main__":
    train(Workload.read(Path(sys.argv[1])), Paced(Pace()))
