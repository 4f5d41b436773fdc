"""train/update_norm: the norm of each parameter update, the paper's "gradient step size"."""

from __future__ import annotations

from typing import Any, final

import pytorch_lightning as pl
import torch
from torch import Tensor

from redi_lab.backbone.sharding import whole


@final
class UpdateNorm(pl.Callback):
    """Logs ‖θ_{t+1} − θ_t‖₂ of every optimizer step as `train/update_norm`.

    It keeps a copy of the trainable parameters through each step, so it costs their memory once more.
    """

    def __init__(self) -> None:
        self._before: list[Tensor] = []
        self._norm: Tensor | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch the optimizer itself: it may step anywhere within a training step."""
        for optimizer in trainer.optimizers:
            optimizer.register_step_pre_hook(self._remember)
            optimizer.register_step_post_hook(self._measure)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the step's norm, which is 0 where the step was left out."""
        pl_module.log("train/update_norm", 0.0 if self._norm is None else self._norm, batch_size=1)
        self._norm = None

    @torch.no_grad()
    def _remember(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        self._before = [p.detach().clone() for p in _parameters(optimizer)]

    @torch.no_grad()
    def _measure(self, optimizer: torch.optim.Optimizer, *_: Any) -> None:
        torch._foreach_sub_(self._before, [p.detach() for p in _parameters(optimizer)])
        self._norm = whole(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(self._before))))
        self._before = []


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]
