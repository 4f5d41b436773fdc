"""Steps of the objectives that `loss.form` names: one pass over the vocabulary gives the gradient of the equation."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.losses.logps import SequenceLogps
from redi_lab.modules.pair_forms import COUPLED, SEPARABLE, CoupledModule, PairFormModule, SeparableModule
from tests.losses.test_pair_forms import SETTINGS
from tests.modules.tiny_runs import (
    HARMLESS_WARNINGS,
    HUGE,
    NaiveTwin,
    attach_reference,
    batches_of,
    corpus,
    fit,
    make_backbone,
    relative_error,
    tokenizer,
)

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]


def data_for(kind: type[PairFormModule], budget: int | None) -> TraceDataModule:
    """Pairs; without a budget, the smallest that holds each unit, so that there are several micro-batches."""
    make = partial(
        TraceDataModule,
        corpus(),
        TraceEncoder(tokenizer()),
        task="pairs",
        batch_size=6,
        split_examples=kind.is_separable,
        seed=3,
    )
    if budget is not None:
        return make(micro_batch_tokens=budget)
    units = [[len(s.input_ids) for s in example] for example in make(micro_batch_tokens=HUGE).train_examples]
    return make(micro_batch_tokens=max(max(unit) if kind.is_separable else sum(unit) for unit in units))


@pytest.mark.parametrize("name", SEPARABLE | COUPLED)
def test_step_has_the_gradient_of_the_equation_however_it_is_cut(name: str, tmp_path: Path) -> None:
    kind = SeparableModule if name in SEPARABLE else CoupledModule
    form = kind.forms[name]
    settings = SETTINGS[name] | {key: 0.02 for key in ("beta",) if key in form.settings}
    gradients = []
    for budget in (None, HUGE):
        data = data_for(kind, budget)
        if form.needs_reference:
            attach_reference(data, make_backbone(seed=1), tmp_path)
        module = kind(form=name, backbone=make_backbone(), optimizer=partial(torch.optim.SGD, lr=0.1), **settings)
        run = fit(module, data)
        gradients.append(run.tap.gradients[0])
    assert relative_error(*gradients) < 1e-5

    twin, reference = NaiveTwin(make_backbone()), NaiveTwin(make_backbone(seed=1))
    pairs = batches_of(data)[0]
    sides = [
        SequenceLogps(
            torch.stack([twin.logp(pair[side]) for pair in pairs]),
            torch.tensor([pair[side].completion_length for pair in pairs]),
        )
        for side in (0, 1)
    ]
    with torch.no_grad():
        anchors = tuple(torch.stack([reference.logp(pair[side]) for pair in pairs]) for side in (0, 1))
    loss = form.loss(*sides, *((anchors,) if form.needs_reference else ()), **settings).mean()
    assert run.train[0]["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert relative_error(gradients[1], twin.gradient(loss)) < 1e-4
