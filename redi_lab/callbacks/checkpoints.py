"""Checkpoints as Hugging Face folders, which transformers, vLLM and the next stage load as they are."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, final

import pytorch_lightning as pl
import torch

from redi_lab.backbone.sharding import whole_policy
from redi_lab.files import replacing_folder

BEST = "best"
"""Folder of the best checkpoint, beside the others."""
BEST_NOTE = "best.json"
"""File in it: `{"step": STEP, METRIC: VALUE}`."""


@final
class ExportCheckpoints(pl.Callback):
    """Writes `folder/step-N` each n steps, `folder/best` where a metric was best, and `folder/last` at the end.

    Each folder appears whole or not at all.

    Args:
        folder: where checkpoints go.
        end_of_turn_id: token that ends a generation, for the generation config.
        every_n_steps: optimizer steps between exports; None: the last state alone.
        monitor: metric whose best value keeps a copy, looked at after validation, at each export and at the end.
        mode: whether lower or higher is better.
        notes: further JSON files for each folder, by name.
    """

    def __init__(
        self,
        folder: Path,
        end_of_turn_id: int,
        every_n_steps: int | None,
        monitor: str | None,
        mode: Literal["min", "max"],
        notes: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    ) -> None:
        self.folder = folder
        self.end_of_turn_id = end_of_turn_id
        self.every_n_steps = every_n_steps
        self.monitor = monitor
        self.mode = mode
        self.notes = notes
        self.best: float | None = None

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, which a resumed run must surpass."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best value so far."""
        self.best = state_dict["best"]

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Export at the interval."""
        if self.every_n_steps is not None and trainer.global_step % self.every_n_steps == 0:
            self._export(trainer, pl_module, f"step-{trainer.global_step}")
            self._keep_best(trainer, pl_module)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep the best by a validation metric."""
        self._keep_best(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Export the final state, which may be the best one too."""
        self._export(trainer, pl_module, "last")
        self._keep_best(trainer, pl_module)

    def _keep_best(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if self.monitor is None or self.monitor not in trainer.callback_metrics:
            return
        value = trainer.strategy.broadcast(float(trainer.callback_metrics[self.monitor]))
        if math.isnan(value):  # no later value would ever be better than a NaN
            return
        if self.best is None or (value < self.best if self.mode == "min" else value > self.best):
            self.best = value
            self._export(trainer, module, BEST, {"step": trainer.global_step, self.monitor: value})

    def _export(
        self, trainer: pl.Trainer, module: pl.LightningModule, name: str, note: dict[str, float] | None = None
    ) -> None:
        backbone = whole_policy(trainer, module.backbone, torch.device("cpu"))
        if backbone is None or not trainer.is_global_zero:
            return
        target = self.folder / name
        size = sum(parameter.nbytes for parameter in backbone.parameters())
        with replacing_folder(target, size, f"the checkpoint {target}") as partial:
            backbone.save(partial, self.end_of_turn_id)
            places = [partial]
            if backbone.has_adapters:  # so that the adapter alone can be asked as it was trained to be
                places.append(partial / "adapter")
                backbone.tokenizer.save_pretrained(places[-1])
            for file, content in (self.notes if note is None else {**self.notes, BEST_NOTE: note}).items():
                for place in places:
                    (place / file).write_text(json.dumps(content) + "\n", encoding="utf-8")
