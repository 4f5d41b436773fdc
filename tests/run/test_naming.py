from __future__ import annotations

import pytest
from yaml import safe_load

from redi_lab.config.compose import CONFIG_DIR, load_config
from redi_lab.config.schema.losses import LOSSES
from redi_lab.run.naming import objective, objective_name, run_label, run_name


@pytest.mark.parametrize(
    ("overrides", "label"),
    [
        (["loss.alpha=0.25", "optimizer.lr=1.23e-5", "seed=7"], "redi α.25 lr 1.23e-5 s7"),
        (["+experiment=demo_simpo"], "simpo β10 γ1 lr 1e-4 s42"),
    ],
)
def test_a_run_is_named_by_what_sets_it_apart(overrides: list[str], label: str) -> None:
    config = load_config("train", overrides)
    assert run_label(config) == label
    assert run_name(config) == f"{label} · {config.name}"


@pytest.mark.parametrize(
    ("objective", "settings", "label"),
    [
        ("REDI", {"alpha": 0.005}, "redi α5e-3"),
        ("REDI", {"alpha": 1.0}, "redi α1"),
        ("REDI", {"alpha": 0.0}, "redi α0"),
        ("REDI", {"alpha": 0.5, "prefix_weight": 0.0, "tail_weight": 1.0}, "redi α.5 prefix_weight 0"),
        ("SFT", {"kl_weight": 0.0}, "sft"),
        ("UnpairedREDI", {"alpha": 0.8}, "unpaired redi α.8"),
    ],
)
def test_numbers_are_short_and_what_has_no_effect_is_left_out(
    objective: str, settings: dict[str, float], label: str
) -> None:
    loss = {"_target_": f"redi_lab.modules.any.{objective}Module", "_partial_": True, **settings}
    assert run_label({"loss": loss, "optimizer": {"lr": 2e-4}, "seed": 42}) == f"{label} lr 2e-4 s42"


def test_rates_that_a_sweep_draws_stay_apart() -> None:
    rates = (1.0001e-4, 1e-4, 0.01)
    labels = {run_label({"loss": {"_target_": "a.REDIModule"}, "optimizer": {"lr": rate}}) for rate in rates}
    assert labels == {"redi lr 1.0001e-4", "redi lr 1e-4", "redi lr 1e-2"}


def test_what_trains_nothing_keeps_its_name_and_own_numbers_are_spelt_out() -> None:
    assert run_label({"name": "evaluate"}) == run_name({"name": "evaluate"}) == "evaluate"
    assert objective({"_target_": "mine.HingeModule", "margin": 1, "is_soft": True}) == "hinge margin 1"


def test_an_objective_has_the_name_of_its_preset() -> None:
    """Presets that only set numbers of another one have its class, and its name."""
    settings = {path.stem: safe_load(path.read_text()) for path in (CONFIG_DIR / "loss").glob("*.yaml")}
    named = {name: objective_name(one["_target_"]) for name, one in settings.items() if "_target_" in one}
    assert len(named) == len(LOSSES)
    assert all(name == found for name, found in named.items())
