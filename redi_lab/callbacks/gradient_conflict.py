"""Do right and wrong traces pull against each other? Gradient norms of the two terms of a loss, and their cosine.

Every objective here has a gradient that is a sum over sequences, such as Σ_s w_s ∇log π(y_s|x_s) with
w_s = ∂loss/∂log π(y_s|x_s). A second pass over the step's batch, with the rejected sequences' weights at zero, gives
the chosen ones' part; what is left of the step's gradient is the other one. So a measurement costs about one step more
and, for its duration, the memory of the gradients once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, final

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from redi_lab.callbacks.measuring import record
from redi_lab.data.packing import Batch


@final
class GradientConflict(pl.Callback):
    """Logs `train/grad_norm_chosen`, `train/grad_norm_rejected` and `train/grad_cosine` each n steps.

    Norms and cosine are those of the whole gradients, before clipping. The cosine is −1 where the two terms cancel; it
    is left out where one of them is zero. Objectives without rejected sequences log nothing. Training is the same to
    the bit with it and without.

    Args:
        every_n_steps: optimizer steps between two measurements.
    """

    def __init__(self, every_n_steps: int) -> None:
        self._interval = every_n_steps
        self._module: Any = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Watch the gradients: only within the step are they whole and not yet clipped."""
        if pl_module.task != "demonstrations":
            self._module = pl_module
            pl_module.gradient_observers.append(self._observe)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Let go of the module."""
        if self._module is not None:
            self._module.gradient_observers.remove(self._observe)
            self._module = None

    def _observe(self, batch: Batch, sums: Any) -> None:
        module, trainer = self._module, self._module.trainer
        if trainer.global_step % self._interval != 0:
            return
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        with isolate_rng(), torch.enable_grad():  # dropout draws again
            chosen = _chosen_gradients(module, batch, module.slopes(batch, sums), parameters)
        if trainer.world_size > 1:
            chosen = [trainer.strategy.reduce(gradient, reduce_op="sum") for gradient in chosen]
        whole = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
        metrics = {f"train/{name}": value for name, value in compare_terms(chosen, whole).items()}
        record(trainer, metrics, trainer.global_step)


def compare_terms(chosen: Sequence[Tensor], whole: Sequence[Tensor]) -> dict[str, float]:
    """Norms of a gradient's two terms and their cosine, left out where one of them is zero.

    Args:
        chosen: one of the terms, a tensor for each parameter.
        whole: the sum of both, likewise.
    """
    squares = torch.zeros(3, dtype=torch.float64)
    for of_chosen, of_both in zip(chosen, whole, strict=True):
        c = of_chosen.flatten().float()
        r = of_both.flatten().float() - c
        squares += torch.stack([c.dot(c), r.dot(r), c.dot(r)]).double().cpu()
    norm_chosen, norm_rejected = squares[:2].sqrt().tolist()
    metrics = {"grad_norm_chosen": norm_chosen, "grad_norm_rejected": norm_rejected}
    if norm_chosen > 0 and norm_rejected > 0:
        metrics["grad_cosine"] = float(squares[2]) / (norm_chosen * norm_rejected)
    return metrics


def _chosen_gradients(module: Any, batch: Batch, slopes: Any, parameters: Sequence[torch.nn.Parameter]) -> list[Tensor]:
    """Gradient of the sums times their slopes over this rank's chosen sequences."""
    total = [torch.zeros_like(parameter) for parameter in parameters]
    form = slopes.map(lambda values: values * batch.is_chosen)
    for micro in batch.micro_batches:
        if not batch.is_chosen[micro.sequences].any():
            continue
        loss = module.weighted_sum(micro, form).total
        for so_far, gradient in zip(total, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            if gradient is not None:
                so_far += gradient
    return total
