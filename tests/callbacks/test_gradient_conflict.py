"""The two terms of a gradient, against autograd through the formulas as they stand."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch.optim import AdamW

from redi_lab.callbacks.gradient_conflict import GradientConflict, compare_terms, term_products
from redi_lab.config.metrics import CALLBACK_METRICS
from tests.modules.tiny_runs import (
    HARMLESS_WARNINGS,
    OBJECTIVES,
    NaiveTwin,
    Run,
    attach_reference,
    batches_of,
    fit,
    make_backbone,
    make_data,
    make_module,
)

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]
NAMES = CALLBACK_METRICS["gradient_conflict"]


def run(objective: str, folder: Path, *callbacks: GradientConflict, max_steps: int = 1, **options: Any) -> Run:
    backbone = make_backbone()
    data = make_data(objective, batch_size=4, budget=0)
    if OBJECTIVES[objective][0].needs_reference:
        attach_reference(data, make_backbone(seed=1), folder)
    module = make_module(objective, backbone, optimizer=partial(AdamW, lr=1e-2), **options)
    return fit(module, data, max_steps=max_steps, callbacks=callbacks)


def measured(result: Run) -> dict[int, dict[str, float]]:
    return {step: call for step, call in result.log.calls if "train/grad_norm_chosen" in call}


@pytest.mark.parametrize("objective", ["redi", "unpaired_redi", "dpo", "simpo"])
def test_terms_equal_those_of_the_naive_twin(objective: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """∂L/∂θ with the rejected (the chosen) sequences' log-probs cut off from the graph."""
    row = measured(run(objective, tmp_path, GradientConflict(1)))[0]
    twin, reference = NaiveTwin(make_backbone()), NaiveTwin(make_backbone(seed=1))
    (batch, *_) = batches_of(make_data(objective, batch_size=4))
    logp = twin.logp

    def gradient_of(side: bool) -> torch.Tensor:
        monkeypatch.setattr(twin, "logp", lambda s: logp(s) if s.is_chosen is side else logp(s).detach())
        return twin.gradient(twin.loss(objective, batch, reference))

    chosen, rejected = gradient_of(True), gradient_of(False)
    cosine = torch.nn.functional.cosine_similarity(chosen, rejected, dim=0)
    expected = [chosen.norm().item(), rejected.norm().item(), cosine.item()]
    assert [row[name] for name in NAMES] == pytest.approx(expected, rel=1e-3)


def test_is_logged_at_the_interval_and_fits_the_whole_norm(tmp_path: Path) -> None:
    result = run("redi", tmp_path, GradientConflict(2), max_steps=5, max_grad_norm=1e-3)
    rows = measured(result)
    assert list(rows) == [0, 2, 4]
    for step, row in rows.items():
        c, r, cosine = (row[name] for name in NAMES)
        whole = next(call["train/grad_norm"] for s, call in result.log.calls if s == step and "train/grad_norm" in call)
        assert math.sqrt(c * c + r * r + 2 * c * r * cosine) == pytest.approx(whole, rel=1e-4)


def test_training_is_the_same_to_the_bit(tmp_path: Path) -> None:
    with_it = run("redi", tmp_path, GradientConflict(1), max_steps=3)
    without = run("redi", tmp_path, max_steps=3)
    assert all(torch.equal(a, b) for a, b in zip(with_it.tap.parameters, without.tap.parameters, strict=True))


def test_without_negatives_there_is_no_conflict(tmp_path: Path) -> None:
    assert measured(run("sft", tmp_path, GradientConflict(1))) == {}
    backbone = make_backbone()
    module = make_module("redi", backbone, alpha=0.0)
    row = measured(fit(module, make_data("redi"), callbacks=[GradientConflict(1)]))[0]
    assert row["train/grad_norm_rejected"] == pytest.approx(0.0, abs=1e-5)
    assert row["train/grad_norm_chosen"] > 0.1


def test_frozen_parameters_take_no_part() -> None:
    backbone = make_backbone()
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("norm" in name)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        callbacks=[GradientConflict(1)],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(make_module("redi", backbone), datamodule=make_data("redi"))
    assert float(trainer.callback_metrics["train/grad_norm_chosen"]) > 0


def test_comparison_by_hand() -> None:
    """(3, 0) and (0, 4) are at right angles; (1, 0) and (−2, 0) are opposed; nothing can be said of (0, 0)."""

    def compare(chosen: list[torch.Tensor], whole: list[torch.Tensor]) -> dict[str, float]:
        return compare_terms(term_products(chosen, whole))

    right = compare([torch.tensor([3.0]), torch.tensor([0.0])], [torch.tensor([3.0]), torch.tensor([4.0])])
    assert right == {"grad_norm_chosen": 3.0, "grad_norm_rejected": 4.0, "grad_cosine": 0.0}
    assert compare([torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 0.0])])["grad_cosine"] == -1.0
    assert "grad_cosine" not in compare([torch.zeros(2)], [torch.ones(2)])
