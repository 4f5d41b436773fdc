"""A callback that ends one of two ranks while the other one waits for it."""

from __future__ import annotations

from typing import final

import pytorch_lightning as pl

from redi_lab.errors import UserError


@final
class FailingRank(pl.Callback):
    """Raises on rank 1 as training begins: a mistake of the user, or an error of ours."""

    def __init__(self, is_mistake: bool) -> None:
        self.is_mistake = is_mistake

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_rank == 1:
            if self.is_mistake:
                raise UserError("rank 1 cannot go on")
            raise ZeroDivisionError
