"""One optimizer step of every objective, as a real Lightning run, against what the paper's formulas say."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from redi_lab.callbacks.update_norm import UpdateNorm
from redi_lab.config.metrics import known_metrics
from redi_lab.config.schema.losses import LOSSES
from tests.modules.tiny_runs import (
    HARMLESS_WARNINGS,
    HUGE,
    OBJECTIVES,
    NaiveTwin,
    Run,
    attach_reference,
    batches_of,
    fit,
    make_backbone,
    make_data,
    make_module,
    relative_error,
)

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]
every_objective = pytest.mark.parametrize("objective", list(OBJECTIVES))


def run(
    objective: str, folder: Path, *, budget: int = HUGE, num_validation: int = 0, max_steps: int = 1, **options: object
) -> Run:
    """Train; DPO's reference has weights of its own, so that its rewards are not all 0."""
    data = make_data(objective, budget=budget, num_validation=num_validation)
    if objective == "dpo":
        attach_reference(data, make_backbone(seed=1), folder)
    module = make_module(objective, make_backbone(), **options)
    # Only where there is something to validate: Lightning would clear gradients that the step forgot to clear.
    interval = 1 if num_validation else 1.0
    return fit(module, data, max_steps=max_steps, callbacks=[UpdateNorm()], val_check_interval=interval)


@every_objective
def test_gradients_match_an_unpacked_twin_however_the_batch_is_cut(objective: str, tmp_path: Path) -> None:
    (batch, *_) = make_data(objective, budget=0).train_dataloader()
    assert len(batch.micro_batches) > 1
    rows = [set(micro.sequences.tolist()) for micro in batch.micro_batches]
    if objective == "redi":  # chosen and rejected of a pair need not meet
        assert any(2 * i in row and 2 * i + 1 not in row for row in rows for i in range(len(batch.lengths) // 2))
    if objective in ("dpo", "simpo"):  # here they must
        assert all({sequence ^ 1 for sequence in row} == row for row in rows)

    whole, cut = run(objective, tmp_path, budget=HUGE), run(objective, tmp_path, budget=0, max_steps=2)
    assert relative_error(cut.tap.gradients[0], whole.tap.gradients[0]) < 1e-5
    assert relative_error(cut.tap.parameters[0], whole.tap.parameters[0]) < 1e-6
    ignored = {"train/tokens_per_second", "train/row_fill"}
    for name in whole.train[0].keys() - ignored:
        assert cut.train[0][name] == pytest.approx(whole.train[0][name], rel=1e-5), name

    batches = batches_of(make_data(objective))
    twin, reference = NaiveTwin(make_backbone()), NaiveTwin(make_backbone(seed=1))
    assert len(batches) > 2
    for step, examples in enumerate(batches[:2]):
        loss = twin.loss(objective, examples, reference)
        gradient = twin.gradient(loss)
        assert cut.train[step]["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert cut.train[step]["train/grad_norm"] == pytest.approx(gradient.norm().item(), rel=1e-4)
        assert relative_error(cut.tap.gradients[step], gradient) < 1e-4
        twin.descend(gradient, rate=0.1)


@every_objective
def test_logs_the_known_metrics_at_every_step(objective: str, tmp_path: Path) -> None:
    result = run(objective, tmp_path, num_validation=4, max_steps=3)
    target = next(name for name in LOSSES if name.endswith(f".{OBJECTIVES[objective][0].__name__}"))
    known = known_metrics(target, has_validation=True)
    for stage in ("train", "val"):
        calls = result.log.stage(stage)
        assert len(calls) == 3
        for call in calls:
            assert sorted(call) == [name for name in known if name.startswith(f"{stage}/")]
            assert all(math.isfinite(value) for value in call.values())
    assert {name.split("/")[0] for _, call in result.log.calls for name in call} == {"train", "val"}


def test_redi_without_negatives_is_length_normalised_sft_on_the_chosen() -> None:
    data = make_data("redi", budget=0)
    twin = NaiveTwin(make_backbone())
    loss = torch.stack([-twin.mean_logp(chosen) for chosen, _ in batches_of(data)[0]]).mean()
    result = fit(make_module("redi", make_backbone(), alpha=0.0), data)
    assert result.train[0]["train/loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert relative_error(result.tap.gradients[0], twin.gradient(loss)) < 1e-4


def test_redi_with_alpha_one_is_symmetric() -> None:
    data = make_data("redi", budget=0)
    twin = NaiveTwin(make_backbone())
    pairs = batches_of(data)[0]
    loss = torch.stack([twin.mean_logp(rejected) - twin.mean_logp(chosen) for chosen, rejected in pairs]).mean()
    result = fit(make_module("redi", make_backbone(), alpha=1.0), data)
    assert result.train[0]["train/loss"] == pytest.approx(loss.item(), rel=1e-4)
    assert relative_error(result.tap.gradients[0], twin.gradient(loss)) < 1e-4


def test_dpo_starts_at_log_two_where_the_policy_is_its_own_reference(tmp_path: Path) -> None:
    data, policy = make_data("dpo", budget=0), make_backbone()
    attach_reference(data, policy, tmp_path)
    first, second = fit(make_module("dpo", policy), data, max_steps=2).train
    assert first["train/loss"] == pytest.approx(math.log(2.0), rel=1e-5)
    assert first["train/rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    assert first["train/rewards/slope"] == pytest.approx(0.5, rel=1e-5)  # σ(0)
    assert abs(second["train/loss"] - math.log(2.0)) > 1e-3  # the reference stays behind, the policy moves


def test_the_slope_of_simpo_is_what_its_sigmoid_leaves_of_the_gradient() -> None:
    """The mean over pairs of σ(γ − β(m_w − m_l)), which is −∂loss/∂(m_w − m_l) over β."""
    data = make_data("simpo", budget=0)
    twin = NaiveTwin(make_backbone())
    pairs = batches_of(data)[0]
    margins = [(twin.mean_logp(chosen) - twin.mean_logp(rejected)).item() for chosen, rejected in pairs]
    found = fit(make_module("simpo", make_backbone(), beta=4.0, gamma=1.5), data).train[0]
    assert found["train/rewards/slope"] == pytest.approx(
        sum(1 / (1 + math.exp(4.0 * margin - 1.5)) for margin in margins) / len(margins), rel=1e-4
    )


def test_dpo_without_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="needs reference log-probs"):
        fit(make_module("dpo", make_backbone()), make_data("dpo"))
