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

from redi_lab.backbone.sharding import is_sharded, part
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
        gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
        whole = [gradient.clone() for gradient in gradients]
        for gradient in gradients:
            gradient.zero_()
        form = module.slopes(batch, sums).map(lambda values: values * batch.is_chosen)
        with isolate_rng(), torch.enable_grad():  # dropout draws again
            module.add_gradients(batch, lambda micro: module.weighted_sum(micro, form).total)
        squares = term_products([part(gradient) for gradient in gradients], [part(gradient) for gradient in whole])
        if is_sharded(module.backbone):
            squares = trainer.strategy.reduce(squares.to(module.device), reduce_op="sum")
        for gradient, both in zip(gradients, whole, strict=True):
            gradient.copy_(both)
        metrics = {f"train/{name}": value for name, value in compare_terms(squares).items()}
        record(trainer, metrics, trainer.global_step)


def term_products(chosen: Sequence[Tensor], whole: Sequence[Tensor]) -> Tensor:
    """(3,) products of a gradient's two terms: of the first with itself, of the second with itself, of both.

    Args:
        chosen: the first term, a tensor for each parameter.
        whole: the sum of both, likewise.
    """
    products = torch.zeros(3, dtype=torch.float64)
    for of_chosen, of_both in zip(chosen, whole, strict=True):
        c = of_chosen.flatten().float()
        r = of_both.flatten().float() - c
        products += torch.stack([c.dot(c), r.dot(r), c.dot(r)]).double().cpu()
    return products


def compare_terms(squares: Tensor) -> dict[str, float]:
    """Norms of the two terms and their cosine, left out where one of them is zero, from their products (3,)."""
    norm_chosen, norm_rejected = squares[:2].sqrt().tolist()
    metrics = {"grad_norm_chosen": norm_chosen, "grad_norm_rejected": norm_rejected}
    if norm_chosen > 0 and norm_rejected > 0:
        metrics["grad_cosine"] = float(squares[2]) / (norm_chosen * norm_rejected)
    return metrics
