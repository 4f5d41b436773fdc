"""The collapse detector as a user meets it: configuration, summary.json, events, and what is not reused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from redi_lab.config.compose import load_config
from redi_lab.errors import UserError
from redi_lab.verbs.train.command import run_training

Overrides = Callable[..., list[str]]
ANYTHING_IS_A_COLLAPSE = (
    "callbacks.collapse.drifting_nats=1e-10",
    "callbacks.collapse.collapsed_nats=1e-9",
    "callbacks.probes.every_n_steps=1",
)
pytestmark = pytest.mark.filterwarnings(r"ignore:.*in eval mode at the start of training")


def run(overrides: list[str]) -> tuple[Path, dict[str, object]]:
    folder = run_training(load_config("train", overrides), overrides)
    return folder, json.loads((folder / "summary.json").read_text())


def test_a_collapse_can_stop_a_run(tiny: Overrides) -> None:
    """A rate so high that the probes must fall."""
    stop = ("callbacks.collapse.action=stop", "optimizer.lr=0.3", "loss.alpha=1", "scheduler.warmup_ratio=0")
    folder, summary = run(tiny("init_from=null", *ANYTHING_IS_A_COLLAPSE, *stop))
    stopped, collapse = summary["stopped"], summary["collapse"]
    assert isinstance(stopped, dict)
    assert isinstance(collapse, dict)
    assert (stopped["by"], collapse["state"]) == ("collapse", "collapsed")
    assert stopped["reason"] == collapse["reason"]
    kinds = [json.loads(line)["kind"] for line in (folder / "events.jsonl").read_text().splitlines()]
    assert kinds[-2:] == ["collapsed", "stop"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["callbacks.collapse.action=panic"], "action=panic: must be warn"),
        (["callbacks.collapse.lr_factor=0"], r"lr_factor=0: must be above 0"),
        (["callbacks.collapse.collapsed_nats=-1"], "collapsed_nats=-1: must be above 0"),
        (["callbacks.collapse.drifting_nats=1"], "drifting_nats=1: must be at most .*collapsed_nats=0.3"),
        (["callbacks.collapse.max_rollbacks=-1"], "max_rollbacks=-1: must be at least 0"),
        (["loss=dpo", "callbacks.collapse.alpha_factor=0.5"], "alpha_factor=0.5: this objective has no alpha"),
    ],
)
def test_mistakes_are_told_before_anything_is_loaded(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=f"callbacks.collapse.{message}"):
        load_config("train", overrides)
