"""What every objective's step shares: clipping, schedule, weight decay, entropy, validation."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, AdamW
from transformers import get_scheduler

from tests.modules.tiny_runs import (
    HARMLESS_WARNINGS,
    OBJECTIVES,
    NaiveTwin,
    attach_reference,
    batches_of,
    fit,
    flat,
    make_backbone,
    make_data,
    make_module,
    relative_error,
)

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]
every_objective = pytest.mark.parametrize("objective", list(OBJECTIVES))


def linear(optimizer: torch.optim.Optimizer, num_steps: int, *, warmup: int) -> Any:
    return get_scheduler("linear", optimizer, num_warmup_steps=warmup, num_training_steps=num_steps)


def test_clipping_bounds_the_update_and_logs_the_unclipped_norm() -> None:
    data, before = make_data("redi"), flat(list(make_backbone().parameters()))
    free = fit(make_module("redi", make_backbone()), data)
    norm = free.tap.gradients[0].norm().item()
    assert free.train[0]["train/grad_norm"] == pytest.approx(norm, rel=1e-5)

    clipped = fit(make_module("redi", make_backbone(), max_grad_norm=0.25 * norm), data)
    assert clipped.train[0]["train/grad_norm"] == pytest.approx(norm, rel=1e-5)
    assert clipped.tap.gradients[0].norm().item() == pytest.approx(0.25 * norm, rel=1e-4)
    expected = before - 0.1 * 0.25 * free.tap.gradients[0]
    assert relative_error(clipped.tap.parameters[0] - before, expected - before) < 1e-3

    loose = fit(make_module("redi", make_backbone(), max_grad_norm=2.0 * norm), data)
    assert torch.equal(loose.tap.parameters[0], free.tap.parameters[0])


def test_learning_rate_warms_up_and_decays_by_optimizer_steps() -> None:
    """Rate 1, 6 steps of which 2 warm up: k/2, then (6 − k)/4. 17 pairs in batches of 6 make 3 steps an epoch."""
    module = make_module(
        "redi", make_backbone(), optimizer=partial(SGD, lr=1.0), scheduler=partial(linear, warmup=2), max_grad_norm=0.01
    )
    before = flat(list(module.parameters()))
    data = make_data("redi", budget=0)
    assert len(data.train_examples) == 17
    result = fit(module, data, max_steps=-1, max_epochs=2)
    assert [call["train/lr"] for call in result.train] == pytest.approx([0.0, 0.5, 1.0, 0.75, 0.5, 0.25])
    states = [before, *result.tap.parameters]
    moved = [(after - state).norm().item() for state, after in pairwise(states)]
    # The rate that is logged is the rate of this very step; every gradient is clipped to 0.01.
    assert moved == pytest.approx([0.0, 0.005, 0.01, 0.0075, 0.005, 0.0025], rel=1e-2)


def test_weight_decay_falls_on_matrices_alone() -> None:
    module = make_module("sft", make_backbone(), optimizer=partial(SGD, lr=1.0, weight_decay=0.5))
    before = [parameter.detach().clone() for parameter in module.parameters()]
    assert {parameter.dim() for parameter in before} == {1, 2}
    fit(module, make_data("sft"))
    for old, new in zip(before, module.parameters(), strict=True):
        assert new.grad is not None
        decay = 0.5 if old.dim() == 2 else 0.0
        torch.testing.assert_close(new.detach(), old - new.grad - decay * old)


def test_every_trainable_parameter_is_optimised_once() -> None:
    backbone = make_backbone()
    frozen = backbone.model.get_input_embeddings().weight.requires_grad_(False)
    optimizer = make_module("sft", backbone, optimizer=partial(AdamW, lr=0.1, weight_decay=0.5)).configure_optimizers()
    optimised = [id(p) for group in optimizer.param_groups for p in group["params"]]
    assert len(optimised) == len(set(optimised))
    assert set(optimised) == {id(p) for p in backbone.parameters()} - {id(frozen)}


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "unpaired_redi"])
def test_validation_is_the_mean_over_all_validation_examples(objective: str, tmp_path: Path) -> None:
    """Four examples in batches of three and one: a mean of batch means would be another number."""
    data = make_data(objective, batch_size=3, num_validation=4, budget=0)
    if objective == "dpo":
        attach_reference(data, make_backbone(seed=1), tmp_path)
    assert len(data.val_examples) == 4
    assert not {e[0].id for e in data.val_examples} & {e[0].id for e in data.train_examples}
    module = make_module(objective, make_backbone(), optimizer=partial(SGD, lr=0.0))
    (call,) = fit(module, data, val_check_interval=1).log.stage("val")

    twin, reference = NaiveTwin(make_backbone()), NaiveTwin(make_backbone(seed=1))
    with torch.no_grad():
        logps = torch.tensor([[twin.logp(s) for s in example] for example in data.val_examples])
        rewards = _rewards(objective, twin, reference, data.val_examples)
        loss = twin.loss(objective, data.val_examples, reference).item()
    lengths = torch.tensor([[s.completion_length for s in example] for example in data.val_examples])
    expected = {"val/loss": loss}
    for side, name in enumerate(("chosen", "rejected")[: logps.shape[1]]):
        expected[f"val/logps/{name}"] = logps[:, side].mean().item()
        expected[f"val/mean_logps/{name}"] = (logps / lengths)[:, side].mean().item()
    if objective != "sft":
        margins = rewards[:, 0] - rewards[:, 1]
        expected |= {
            "val/rewards/chosen": rewards[:, 0].mean().item(),
            "val/rewards/rejected": rewards[:, 1].mean().item(),
            "val/rewards/margins": margins.mean().item(),
            "val/rewards/accuracies": (margins > 0).float().mean().item(),
        }
    if objective in ("dpo", "simpo"):  # 1 − σ(x) of a pair whose loss is −log σ(x)
        losses = torch.stack([twin.loss(objective, [example], reference) for example in data.val_examples])
        expected["val/rewards/slope"] = (1 - torch.exp(-losses)).mean().item()
    assert call == pytest.approx(expected, rel=1e-4)


def test_unpaired_validation_averages_each_side_over_its_own_traces() -> None:
    data = make_data("unpaired_redi", batch_size=3, num_validation=4, budget=0)
    module = make_module("unpaired_redi", make_backbone(), optimizer=partial(SGD, lr=0.0))
    (call,) = fit(module, data, val_check_interval=1).log.stage("val")
    twin = NaiveTwin(make_backbone())
    with torch.no_grad():
        loss = twin.loss("unpaired_redi", data.val_examples, twin).item()
        right = torch.stack([twin.mean_logp(s) for (s,) in data.val_examples if s.is_chosen]).mean().item()
    assert call["val/loss"] == pytest.approx(loss, rel=1e-4)
    assert call["val/mean_logps/chosen"] == pytest.approx(right, rel=1e-4)


def _rewards(objective: str, twin: NaiveTwin, reference: NaiveTwin, examples: Any) -> torch.Tensor:
    """(n, 1 or 2) what each objective pulls apart."""
    if objective == "dpo":
        return torch.tensor([[0.1 * (twin.logp(s) - reference.logp(s)) for s in example] for example in examples])
    scale = 2.0 if objective == "simpo" else 1.0
    return torch.tensor([[scale * twin.mean_logp(s) for s in example] for example in examples])


def test_a_module_without_optimizer_does_not_train() -> None:
    with pytest.raises(ValueError, match="built without an optimizer"):
        fit(make_module("sft", make_backbone(), optimizer=None), make_data("sft"))


def test_throughput_leaves_validation_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps and validations of one second each: the clock must have seen the former only."""
    now = [0.0]
    monkeypatch.setattr("redi_lab.modules.base.time.perf_counter", lambda: now[0])
    module = make_module("redi", make_backbone())
    validate, accumulate = module.validation_step, module._accumulate_gradients

    def slow_validation(*arguments: Any) -> None:
        now[0] += 100.0
        validate(*arguments)

    def slow_step(*arguments: Any) -> Any:
        now[0] += 2.0
        return accumulate(*arguments)

    monkeypatch.setattr(module, "validation_step", slow_validation)
    monkeypatch.setattr(module, "_accumulate_gradients", slow_step)
    data = make_data("redi", batch_size=3, num_validation=4)
    result = fit(module, data, max_steps=2, val_check_interval=1)
    for call, batch in zip(result.train, batches_of(data), strict=False):
        tokens = sum(len(s.input_ids) for pair in batch for s in pair)
        assert call["train/tokens_per_second"] == pytest.approx(tokens / 2.0)
