"""The weight of the negative term over a training: α constant, falling to 0, or rising from 0.

python -m redi_lab callbacks.alpha_schedule.shape=cosine
"""

from __future__ import annotations

import math
from typing import Any, Literal, final

import pytorch_lightning as pl

Shape = Literal["constant", "linear", "cosine", "warmup"]
WARMUP_SHARE = 0.1


@final
class AlphaSchedule(pl.Callback):
    """Sets `CausalLMModule.negative_strength` before each step, from the step alone: a resumed run goes on exactly.

    Args:
        shape: constant; linear or cosine, from 1 to 0 at the end; warmup, from 0 to 1 over the first tenth.
    """

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Set the strength of this step."""
        if self.shape != "constant":
            pl_module.negative_strength = strength(self.shape, trainer.global_step / trainer.estimated_stepping_batches)


def strength(shape: Shape, progress: float) -> float:
    """What α is multiplied by, in [0, 1], after a share `progress` of the steps."""
    match shape:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - progress
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        case "warmup":
            return min(1.0, progress / WARMUP_SHARE)
