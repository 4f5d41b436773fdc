"""What is suggested after a run."""

from __future__ import annotations

import pytest

from redi_lab.config.compose import load_config
from redi_lab.verbs.train.report import next_experiments


@pytest.mark.parametrize(
    ("overrides", "left_out"),
    [(["+experiment=demo_dpo"], "demo_dpo"), (["loss=dpo", "optimizer.lr=1e-4"], "demo_dpo"), ([], "demo")],
)
def test_the_command_that_has_just_run_is_not_suggested(overrides: list[str], left_out: str) -> None:
    suggested = next_experiments(load_config("train", overrides))
    assert left_out not in suggested
    assert len(suggested) >= 3
