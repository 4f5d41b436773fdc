"""Steps of the objectives that `loss.form` names: one pass over the vocabulary gives the gradient of the equation."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.losses.sequences import SequenceLogps
from redi_lab.modules.preference import PreferenceModule
from tests.losses.test_pair_forms import SETTINGS
from tests.modules.pair_forms import COUPLED, SEPARABLE
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


def data_for(kind: type[PreferenceModule], budget: int | None) -> TraceDataModule:
    """Pairs; without a budget, the smallest that holds each unit, so that there are several micro-batches."""
    make = partial(
        TraceDataModule.of_corpus,
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


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Log-probs under the reference, computed once for all objectives."""
    return tmp_path_factory.mktemp("references")


SHOWN = ("topr", "dpo_shift", "dpop")
"""One of each way to the gradient; the others are as these, and their equations have tests of their own."""
OTHERS = [pytest.param(n, {}, marks=pytest.mark.slow) for n in SEPARABLE | COUPLED if n not in SHOWN]
WITHOUT_NEGATIVES = [("npo", {"alpha": 0.0}), ("dpo_shift", {"alpha": 0.0})]


@pytest.mark.parametrize(("name", "changes"), [*((name, {}) for name in SHOWN), *OTHERS, *WITHOUT_NEGATIVES])
def test_step_has_the_gradient_of_the_equation_however_it_is_cut(
    name: str, changes: dict[str, float], references: Path
) -> None:
    kind = (SEPARABLE | COUPLED)[name]
    settings = {key: 0.02 if key == "beta" else value for key, value in SETTINGS[name].items()} | changes
    gradients = []
    for budget in (None, HUGE):
        data = data_for(kind, budget)
        if kind.needs_reference:
            attach_reference(data, make_backbone(seed=1), references)
        module = kind(backbone=make_backbone(), optimizer=partial(torch.optim.SGD, lr=0.1), **settings)
        run = fit(module, data)
        gradients.append(run.tap.gradients[0])
    assert relative_error(*gradients) < 1e-5

    twin, reference = NaiveTwin(make_backbone()), NaiveTwin(make_backbone(seed=1))
    pairs = batches_of(data)[0]
    sides = []
    for side in (0, 1):
        sequences = [pair[side] for pair in pairs]
        with torch.no_grad():
            anchors = torch.stack([reference.logp(sequence) for sequence in sequences])
        logps = torch.stack([twin.logp(sequence) for sequence in sequences])
        sides.append(SequenceLogps(logps, torch.tensor([s.completion_length for s in sequences]), anchors))
    loss = kind.pair_loss(*sides, **settings).mean()
    assert run.train[0]["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert relative_error(gradients[1], twin.gradient(loss)) < 1e-4
