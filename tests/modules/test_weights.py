"""Weights of rows and tokens, functions of single tokens and the divergence, against plain autograd."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_class
from torch import Tensor

from redi_lab.config.metrics import known_metrics
from redi_lab.config.schema.losses import LOSSES
from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.tokenization import TokenizedSequence, TraceEncoder
from redi_lab.losses.sequences import SequenceLogps
from redi_lab.modules.base import CausalLMModule
from redi_lab.modules.examples import Examples
from redi_lab.modules.redi import REDIModule
from redi_lab.modules.unpaired import OREALModule
from redi_lab.run.naming import objective_name
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
KINDS: dict[str, type[CausalLMModule]] = {objective_name(path): get_class(path) for path in LOSSES}
PAIRWISE = {"beta": 0.02, "head_gradient": "accumulate"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {}),
    "redi": ("redi", {"alpha": 0.8}),
    "unpaired_redi": ("unpaired_redi", {"alpha": 0.8}),
    "w_reinforce": ("w_reinforce", {"positive_weight": 0.1, "negative_weight": 1.0}),
    "asymre": ("asymre", {"baseline": 0.4, "is_relative": False}),
    "asymre by problem": ("asymre", {"baseline": -0.1, "is_relative": True}),
    "oreal": ("oreal", {"negative_weight": 0.5}),
    "dpo": ("dpo", PAIRWISE),
    "dpo recomputed": ("dpo", PAIRWISE | {"head_gradient": "recompute"}),
    "simpo": ("simpo", PAIRWISE | {"gamma": 1.0}),
    "npo": ("npo", {"alpha": 0.8, "beta": 0.02}),
    "rpo": ("rpo", {"beta": 0.02, "nll_weight": 0.3}),
    "a_star_po": ("a_star_po", {"beta": 0.02, "value_beta": 0.5}),
    "kto": ("kto", {"beta": 0.02, "chosen_weight": 1.0, "rejected_weight": 1.3}),
    "unlikelihood": ("unlikelihood", {"alpha": 0.8}),
    "luffy": ("luffy", {"alpha": 0.8, "gamma": 0.1}),
    "token_topr": ("token_topr", {"alpha": 0.8}),
}
KL_WEIGHT = 0.7


def weighted(sequence: TokenizedSequence, number: int) -> TokenizedSequence:
    """With a weight, a pass rate and, in every other pair, token weights of both signs; many of them are 0."""
    draw = random.Random(number)
    token_weights = array("f", [draw.choice([0.0, 0.0, 1.0, 0.5, -0.25]) for _ in range(sequence.completion_length)])
    token_weights[-1] = 1.0
    return replace(
        sequence,
        weight=0.5 + number // 2 % 3,
        pass_rate=[0.25, 0.5, 0.8][number % 3],
        token_weights=token_weights if number % 4 < 2 else None,
    )


def make_data(kind: type[CausalLMModule], budget: int | None) -> TraceDataModule:
    """Weighted examples; without a budget, micro-batches as small as the longest unit."""
    make = partial(TraceDataModule.of_corpus, corpus(), TraceEncoder(tokenizer()), task=kind.task, batch_size=6, seed=3)
    split = kind.is_linear or kind.is_separable
    if budget is None:
        lengths = [
            [len(s.input_ids) for s in e] for e in make(micro_batch_tokens=HUGE, split_examples=split).train_examples
        ]
        budget = max(max(unit) if split else sum(unit) for unit in lengths)
    data = make(micro_batch_tokens=budget, split_examples=split)
    numbers = iter(range(10_000))
    data.train_examples[:] = [tuple(weighted(s, next(numbers)) for s in e) for e in data.train_examples]
    if kind.task == "pairs":
        data.train_examples[:] = [(w, replace(r, weight=w.weight)) for w, r in data.train_examples]
    if kind.needs_mismatched:
        data.train_set.mismatch()
    return data


def examples_by_hand(
    module: CausalLMModule, twin: NaiveTwin, reference: NaiveTwin, sequences: Sequence[TokenizedSequence]
) -> Examples:
    """Each sum written out, with gradients through the twin."""
    rows: list[list[Tensor]] = []
    for sequence in sequences:
        logps = twin.token_logps(sequence)
        with torch.no_grad():
            anchor = reference.token_logps(sequence)
        given = sequence.token_weights
        weights = torch.ones_like(logps) if given is None else torch.tensor(list(given))
        d = anchor - logps
        rows.append(
            [
                (weights * logps).sum(),
                weights.abs().sum(),
                (weights * anchor).sum(),
                torch.tensor(sequence.weight),
                torch.tensor(sequence.pass_rate),
                (weights * module.token_term(logps, anchor)).sum() if module.has_token_term else logps.sum(),
                (d.exp() - d - 1).sum(),
            ]
        )
    return Examples(
        SequenceLogps(*(torch.stack(column) for column in zip(*rows, strict=True))),
        torch.tensor([sequence.is_chosen for sequence in sequences]),
    )


def with_and_without_divergence() -> list[object]:
    """Each case without it, and with it; by default one of each way to take the gradient, which may add it."""
    slow = ("dpo recomputed", "asymre by problem", "sft", "unpaired_redi", "simpo", "a_star_po", "luffy", "token_topr")
    plain = [pytest.param(case, 0.0, marks=pytest.mark.slow if case in slow else []) for case in CASES]
    shown = ("redi", "dpo", "rpo", "unlikelihood")
    marked = [pytest.param(case, KL_WEIGHT, marks=[] if case in shown else pytest.mark.slow) for case in CASES]
    return [*plain, *marked]


@pytest.fixture(scope="module")
def references(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Log-probs under the reference, computed once for each order of the examples."""
    return tmp_path_factory.mktemp("references")


@pytest.mark.parametrize(("case", "kl_weight"), with_and_without_divergence())
def test_a_step_has_the_gradient_of_the_weighted_loss_however_it_is_cut(
    case: str, kl_weight: float, references: Path
) -> None:
    """Chunks of the head shorter than a trace in several micro-batches; of each cost class also one of everything."""
    name, settings = CASES[case]
    gradients, runs = [], []
    for budget, chunk in ((None, 7), *(((HUGE, None),) if kl_weight or case in ("npo", "kto") else ())):
        data = make_data(KINDS[name], budget)
        backbone = make_backbone()
        backbone.head_chunk_tokens = chunk
        sgd = partial(torch.optim.SGD, lr=0.1)
        module = KINDS[name](backbone=backbone, optimizer=sgd, kl_weight=kl_weight, **settings)
        attach_reference(data, make_backbone(seed=1), references, keeps_tokens=True)
        runs.append(fit(module, data))
        gradients.append(runs[-1].tap.gradients[0])
    assert relative_error(gradients[0], gradients[-1]) < 1e-5

    twin, reference = NaiveTwin(make_backbone()), NaiveTwin(make_backbone(seed=1))
    examples = batches_of(data)[0]
    by_hand = examples_by_hand(module, twin, reference, [s for example in examples for s in example])
    batch = data.train_set[next(iter(data.train_dataloader().sampler))]
    loss = module.loss(by_hand, batch)
    if kl_weight:
        assert by_hand.sequences.divergence is not None
        mean = by_hand.sequences.divergence.sum() / sum(s.completion_length for e in examples for s in e)
        assert runs[-1].train[0]["train/kl"] == pytest.approx(mean.item(), rel=1e-5)
        loss = loss + kl_weight * mean
    assert runs[-1].train[0]["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert relative_error(gradients[-1], twin.gradient(loss)) < 1e-4
    path = f"{KINDS[name].__module__}.{KINDS[name].__name__}"
    known = known_metrics(path, has_validation=False, has_divergence=kl_weight > 0)
    assert {*runs[-1].train[0], "train/update_norm"} == set(known)  # that one is a callback's
    plain = [twin.mean_logp(s).item() for e in examples for s in e if s.is_chosen]
    for run in runs:  # curves show log-probs whatever the tokens weigh
        assert run.train[0]["train/mean_logps/chosen"] == pytest.approx(sum(plain) / len(plain), rel=1e-5)


@pytest.mark.parametrize("path", LOSSES)
def test_the_cost_class_is_that_of_the_module(path: str) -> None:
    kind: type[CausalLMModule] = get_class(path)
    cost = LOSSES[path].cost_class
    assert kind.is_linear == (cost in ("A", "B"))
    assert kind.has_token_term == (cost == "B")
    assert kind.is_separable == (cost == "C1" or kind.needs_mismatched)
    assert kind.needs_mismatched == (cost == "D")


def test_a_weight_is_a_factor_of_its_row() -> None:
    """A row with weight 2 has the part of two rows; one with weight 0 has none."""

    def gradient(weights: tuple[float, ...]) -> Tensor:
        data = make_data(KINDS["redi"], HUGE)
        plain = [tuple(replace(s, weight=1.0, token_weights=None) for s in e) for e in data.train_examples[:3]]
        data.train_examples[:] = [tuple(replace(s, weight=w) for s in e) for e, w in zip(plain, weights, strict=True)]
        data.train_set.examples = data.train_examples
        module = REDIModule(backbone=make_backbone(), optimizer=partial(torch.optim.SGD, lr=0.1), alpha=0.8)
        return fit(module, data).tap.gradients[0]

    whole = gradient((2.0, 1.0, 0.0))
    torch.testing.assert_close(whole, 2 * gradient((1.0, 0.0, 0.0)) + gradient((0.0, 1.0, 0.0)), rtol=1e-4, atol=1e-7)


def test_oreal_with_omega_is_the_papers_formula() -> None:
    """(1/N₊) Σ A ω (−ℓ) over right traces − (η/N₋) Σ e^{ℓ − sg ℓ} A ω over wrong ones; N counts tokens, A = r − r̄."""
    data = make_data(KINDS["oreal"], HUGE)
    for number, (s,) in enumerate(data.train_examples):
        omega = array("f", [random.Random(number + n).random() for n in range(s.completion_length)])
        data.train_examples[number] = (replace(s, weight=1.0, token_weights=omega),)
    module = OREALModule(backbone=make_backbone(), optimizer=partial(torch.optim.SGD, lr=0.1), negative_weight=0.5)
    run, twin = fit(module, data), NaiveTwin(make_backbone())
    right, wrong = ([s for (s,) in batches_of(data)[0] if s.is_chosen is side] for side in (True, False))
    twin.model.double()
    loss = torch.zeros((), dtype=torch.float64)
    for sequence in (*right, *wrong):
        logps, mean = twin.token_logps(sequence), 2 * (sequence.pass_rate or 0.0) - 1
        weighted = torch.tensor(list(sequence.token_weights or ())) * ((1 if sequence.is_chosen else -1) - mean)
        terms = -logps if sequence.is_chosen else -0.5 * torch.exp(logps - logps.detach())
        side = right if sequence.is_chosen else wrong
        loss = loss + (weighted * terms).sum() / sum(s.completion_length for s in side)
    assert relative_error(run.tap.gradients[0].double(), twin.gradient(loss)) < 1e-5


def test_the_point_of_reference_of_kto(tmp_path: Path) -> None:
    """The mean log-ratio of each prompt with the completion of the next problem, and 0 where that is negative."""
    twin, reference = NaiveTwin(make_backbone()), NaiveTwin(make_backbone(seed=1))
    found = []
    for swapped in (False, True):
        policy, frozen = (make_backbone(seed=int(side is swapped)) for side in (True, False))
        data = make_data(KINDS["kto"], HUGE)
        attach_reference(data, frozen, tmp_path)
        module = KINDS["kto"](backbone=policy, optimizer=partial(torch.optim.SGD, lr=0.1), **CASES["kto"][1])
        found.append(fit(module, data).train[0]["train/reference_point"])
    indices = next(iter(data.train_dataloader().sampler))
    sequences, ratios = [s for (s,) in data.train_examples], []
    for place in indices:
        own = sequences[place]
        later = (sequences[(place + step) % len(sequences)] for step in range(1, len(sequences)))
        other = next(s for s in later if s.id != own.id)
        ids = [*own.input_ids[: own.prompt_length], *other.input_ids[other.prompt_length :]]
        mixed = replace(own, input_ids=ids)
        with torch.no_grad():
            ratios.append(float(twin.logp(mixed) - reference.logp(mixed)))
    mean = sum(ratios) / len(ratios)
    assert abs(mean) > 1e-2
    assert found == pytest.approx([max(mean, 0.0), max(-mean, 0.0)], rel=1e-4)
