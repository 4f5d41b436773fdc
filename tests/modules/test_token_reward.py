"""A token reward model's training: its gradient, its log, its checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from redi_lab.backbone.causal_lm import REWARD_HEAD
from redi_lab.callbacks.checkpoints import ExportCheckpoints
from redi_lab.config.metrics import known_metrics
from redi_lab.modules.token_reward import TokenRewardModule
from redi_lab.verbs.curate.omega import load_reward_model
from tests.modules.tiny_runs import (
    HARMLESS_WARNINGS,
    HUGE,
    NaiveTwin,
    batches_of,
    fit,
    flat,
    make_backbone,
    make_data,
    make_module,
    relative_error,
)

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]


@pytest.mark.parametrize("budget", [HUGE, 0])
def test_a_step_has_the_gradient_of_the_plain_formula(budget: int) -> None:
    """BCE(σ(mean of the scores), right) of each trace alone in transformers' own forward pass, in double precision."""
    module = make_module("token_reward", make_backbone())
    twin, head = NaiveTwin(module.backbone), module.backbone.reward_head
    assert head is not None
    model, weight = twin.model.double(), head.detach()[0].double().requires_grad_()
    data = make_data("token_reward", budget=budget)
    losses: list[Tensor] = []
    means: dict[bool, list[float]] = {True: [], False: []}
    for (sequence,) in batches_of(data)[0]:
        ids = torch.tensor([list(sequence.input_ids)])
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[0, sequence.prompt_length - 1 : -1]
        mean = (hidden @ weight).mean()
        losses.append(-torch.log(torch.sigmoid(mean) if sequence.is_chosen else 1 - torch.sigmoid(mean)))
        means[sequence.is_chosen].append(float(mean.detach()))
    loss = torch.stack(losses).mean()
    gradients = torch.autograd.grad(loss, [weight, *model.parameters()])

    run = fit(module, data)
    assert relative_error(run.tap.gradients[0].double(), flat(gradients)) < 1e-5
    logged = run.train[0]
    agreed = sum((mean > 0) is side for side, found in means.items() for mean in found) / len(losses)
    expected = {"loss": float(loss.detach()), "scores/accuracy": agreed}
    expected |= {f"scores/{name}": sum(means[s]) / len(means[s]) for name, s in (("chosen", True), ("rejected", False))}
    assert {name: logged[f"train/{name}"] for name in expected} == pytest.approx(expected, rel=1e-5)
    known = known_metrics("redi_lab.modules.token_reward.TokenRewardModule", has_validation=False)
    assert {*logged, "train/update_norm"} == set(known)


def test_it_begins_at_log_two_and_learns_the_verdicts() -> None:
    adam = {"optimizer": lambda groups: torch.optim.Adam(groups, lr=0.01)}
    module = TokenRewardModule(backbone=make_backbone(), **adam)
    run = fit(module, make_data("token_reward", batch_size=40), max_steps=40)
    losses = [call["train/loss"] for call in run.train]
    assert losses[0] == pytest.approx(0.693147, rel=1e-5)
    assert losses[-1] < 0.3
    assert run.train[-1]["train/scores/accuracy"] > 0.9


def test_validation_is_scored_likewise() -> None:
    data = make_data("token_reward", batch_size=40, num_validation=6)
    log = fit(make_module("token_reward", make_backbone()), data, val_check_interval=1).log.stage("val")
    module = make_module("token_reward", make_backbone())
    fit(module, make_data("token_reward", batch_size=40, num_validation=6))
    batch = data.val_set[list(range(len(data.val_examples)))]
    with torch.no_grad():
        scores = torch.cat([module.backbone.token_scores(micro) for micro in batch.micro_batches])
        owners = torch.cat([micro.sequence_index for micro in batch.micro_batches])
    means = torch.stack([scores[owners == number].mean() for number in range(len(batch.lengths))])
    expected = torch.nn.functional.binary_cross_entropy_with_logits(means, batch.is_chosen.float())
    assert log[0]["val/loss"] == pytest.approx(float(expected), rel=1e-5)


def test_the_head_lies_beside_the_model_and_scores_as_before(tmp_path: Path) -> None:
    module, data = make_module("token_reward", make_backbone()), make_data("token_reward")
    fit(module, data, callbacks=[ExportCheckpoints(tmp_path, 3, None, monitor=None, mode="min")])
    assert load_file(tmp_path / "last" / REWARD_HEAD)["weight"].shape == (1, 16)
    loaded = load_reward_model(tmp_path / "last")
    (batch, *_) = data.train_dataloader()
    for micro in batch.micro_batches:
        assert torch.equal(loaded.token_scores(micro), module.backbone.token_scores(micro))


def test_an_lm_head_of_its_own_is_left_alone() -> None:
    """Under DDP a weight that is trained and never used would be waited for."""
    backbone = make_backbone(is_tied=False)
    before = backbone.head.weight.clone()
    run = fit(make_module("token_reward", backbone), make_data("token_reward"))
    assert not backbone.head.weight.requires_grad
    assert torch.equal(backbone.head.weight, before)
    trained = sum(p.numel() for p in backbone.parameters() if p.requires_grad)
    assert run.tap.gradients[0].numel() == trained
    assert make_module("token_reward", make_backbone()).backbone.head.weight.requires_grad  # a shared one is trained
