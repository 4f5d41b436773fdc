"""train/update_norm against the same norm computed by hand."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import Any, final

import pytest
import pytorch_lightning as pl
import torch
from torch.optim import SGD, AdamW

from redi_lab.callbacks.update_norm import UpdateNorm
from tests.modules.tiny_runs import HARMLESS_WARNINGS, fit, flat, make_backbone, make_data, make_module

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]


@pytest.mark.parametrize(
    "optimizer",
    [
        partial(SGD, lr=0.1, momentum=0.9, weight_decay=0.1),
        partial(AdamW, lr=1e-2, weight_decay=0.1),
        partial(AdamW, lr=1e-2, weight_decay=0.1, fused=True),
    ],
    ids=["sgd", "adamw", "fused_adamw"],
)
def test_equals_the_distance_between_parameters(optimizer: Any) -> None:
    module = make_module("redi", make_backbone(), optimizer=optimizer)
    before = flat(list(module.parameters()))
    result = fit(module, make_data("redi", batch_size=3), max_steps=4, callbacks=[UpdateNorm()])
    expected = [(new - old).norm().item() for old, new in pairwise([before, *result.tap.parameters])]
    assert [call["train/update_norm"] for call in result.train] == pytest.approx(expected, rel=1e-4)
    assert min(expected) > 0.0


def test_is_the_rate_times_the_gradient_norm_under_plain_sgd() -> None:
    module = make_module("redi", make_backbone(), optimizer=partial(SGD, lr=0.03))
    result = fit(module, make_data("redi"), max_steps=2, callbacks=[UpdateNorm()])
    for call, gradient in zip(result.train, result.tap.gradients, strict=True):
        assert call["train/update_norm"] == pytest.approx(0.03 * gradient.norm().item(), rel=1e-4)


def test_frozen_parameters_take_no_part() -> None:
    backbone = make_backbone()
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("norm" in name)
    before = flat(list(backbone.parameters()))
    # The tap in `fit` wants a gradient of every parameter, so the run is made without it.
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        callbacks=[UpdateNorm()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(make_module("redi", backbone), datamodule=make_data("redi"))
    moved = (flat(list(backbone.parameters())) - before).norm().item()
    assert 0.0 < moved == pytest.approx(float(trainer.callback_metrics["train/update_norm"]), rel=1e-4)


def test_holds_a_copy_during_the_step_alone() -> None:
    callback = UpdateNorm()
    spy = _Spy(callback)
    module = make_module("redi", make_backbone(), optimizer=partial(SGD, lr=0.1))
    fit(module, make_data("redi"), max_steps=2, callbacks=[spy, callback])
    assert spy.held_between_steps == [0, 0, 0, 0]
    parameters = sum(parameter.numel() for parameter in module.parameters())
    assert spy.held_within_steps == [parameters, parameters]


def _held(callback: UpdateNorm) -> int:
    """Numbers in tensors that the callback refers to, the norm itself aside."""
    found = [v for value in vars(callback).values() for v in (value if isinstance(value, list) else [value])]
    return sum(v.numel() for v in found if isinstance(v, torch.Tensor) and v.dim() > 0)


@final
class _Spy(pl.Callback):
    def __init__(self, callback: UpdateNorm) -> None:
        self.callback = callback
        self.held_between_steps: list[int] = []
        self.held_within_steps: list[int] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.held_between_steps.append(_held(self.callback))

    def on_train_batch_end(self, *_: Any) -> None:
        self.held_between_steps.append(_held(self.callback))

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        trainer.optimizers[0].register_step_post_hook(lambda *_: self.held_within_steps.append(_held(self.callback)))
