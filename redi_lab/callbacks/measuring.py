"""What callbacks share that look at the policy between two optimizer steps.

with measuring(trainer, module):
    accuracy = measure(module.backbone)
record(trainer, {"val/pass_at_1": accuracy}, trainer.global_step)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.seed import isolate_rng


@contextmanager
def measuring(trainer: pl.Trainer, module: pl.LightningModule) -> Iterator[None]:
    """Evaluation mode, no gradients, the trainer's precision; training goes on as if nothing had happened.

    Random states and the mode of the policy are put back, and the time spent does not count as training.
    """
    policy = module.backbone
    was_training = policy.training
    policy.eval()
    try:
        with isolate_rng(), torch.no_grad(), trainer.precision_plugin.forward_context():
            yield
    finally:
        policy.train(was_training)
        module.restart_clock()


def record(trainer: pl.Trainer, metrics: Mapping[str, float], step: int) -> None:
    """Log metrics under `step`, the number of optimizer steps that the measured weights have behind them.

    `module.log` is no help here: it would name the step before, and say nothing before the first step. Other
    callbacks find the values in `trainer.callback_metrics`.
    """
    trainer.callback_metrics.update({name: torch.tensor(value) for name, value in metrics.items()})
    for logger in trainer.loggers:
        logger.log_metrics(dict(metrics), step=step)
