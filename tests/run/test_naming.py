from __future__ import annotations

import pytest

from redi_lab.config.compose import load_config
from redi_lab.run.naming import objective, run_label, run_name


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        ([], "redi α.5 lr 2e-4 s42"),
        (["loss.alpha=0.25", "optimizer.lr=1.23e-5", "seed=7"], "redi α.25 lr 1.23e-5 s7"),
        (["loss.alpha=0.005"], "redi α5e-3 lr 2e-4 s42"),
        (["+experiment=demo_symmetric"], "redi α1 lr 2e-4 s42"),
        (["+experiment=demo_sft_continued"], "redi α0 lr 2e-4 s42"),
        (["+experiment=demo_sft"], "sft lr 2e-3 s42"),
        (["+experiment=demo_dpo", "loss.beta=0.1"], "dpo β.1 lr 1e-4 s42"),
        (["+experiment=demo_simpo"], "simpo β10 γ1 lr 1e-4 s42"),
        (["loss.prefix_weight=0"], "redi α.5 prefix_weight 0 lr 2e-4 s42"),
        (["loss=unpaired_redi"], "unpaired redi α.8 lr 2e-4 s42"),
    ],
)
def test_a_run_is_named_by_what_sets_it_apart(overrides: list[str], label: str) -> None:
    config = load_config("train", overrides)
    assert run_label(config) == label
    assert run_name(config) == f"{label} · {config.name}"


def test_rates_that_a_sweep_draws_stay_apart() -> None:
    labels = {run_label({"loss": {"_target_": "a.redi.B"}, "optimizer": {"lr": lr}}) for lr in (1.0001e-4, 1e-4, 0.01)}
    assert labels == {"redi lr 1.0001e-4", "redi lr 1e-4", "redi lr 1e-2"}


def test_what_trains_nothing_keeps_its_name_and_own_numbers_are_spelt_out() -> None:
    assert run_label({"name": "evaluate"}) == run_name({"name": "evaluate"}) == "evaluate"
    assert objective({"_target_": "mine.hinge.Hinge", "margin": 1, "is_soft": True}) == "hinge margin 1"
