"""The collapse detector in real trainings: what it logs, what each action does, and what a rollback leaves alone."""

from __future__ import annotations

import copy
import json
import logging
import os
import subprocess
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.callbacks.accuracy import InTrainingAccuracy
from redi_lab.callbacks.collapse import EVENTS, SNAPSHOT, collapse_summary
from redi_lab.callbacks.collapse_rule import CHOSEN_PROBE, CollapseState, Limits
from redi_lab.callbacks.probes import Probes
from tests.callbacks.scripted_collapse import PLUNGE, ScriptedProbes, events, make_detector, run_scripted
from tests.conftest import REPOSITORY
from tests.modules.tiny_runs import HARMLESS_WARNINGS, fit, make_backbone, make_data, make_module

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]


def test_a_warning_is_logged_and_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    detector = make_detector(tmp_path, "warn")
    with caplog.at_level(logging.WARNING, "redi_lab"):
        watched, _ = run_scripted(tmp_path, detector=detector)
    alone, _ = run_scripted(tmp_path)
    assert torch.equal(watched.tap.parameters[-1], alone.tap.parameters[-1])
    assert len(watched.tap.parameters) == 6
    logged = [(step, call["collapse/state"]) for step, call in watched.log.calls if "collapse/state" in call]
    assert logged == [(0, 0), (1, 0), (2, 0), (3, 2), (4, 2), (5, 2), (6, 2)]
    assert events(tmp_path) == [(3, "collapsed")]
    assert "step 3: collapsed: the mean log-prob of held-back positives fell by 1 nats" in caplog.text
    summary = collapse_summary([detector])
    assert summary is not None
    assert (summary["state"], summary["step"], summary["rollbacks"]) == ("collapsed", 3, 0)
    assert detector.stop is None


def test_stop_ends_training(tmp_path: Path) -> None:
    detector = make_detector(tmp_path, "stop")
    run, _ = run_scripted(tmp_path, detector=detector)
    assert run.trainer.global_step == 3
    assert detector.stop is not None
    assert (detector.stop.by, detector.stop.step) == ("collapse", 3)
    assert "held-back positives fell by 1 nats" in detector.stop.reason
    assert events(tmp_path) == [(3, "collapsed"), (3, "stop")]


def test_a_rollback_restores_the_weights_and_nothing_else(tmp_path: Path) -> None:
    """Collapse after step 3: the weights of step 2 come back, batches and schedule go on, at half the rate."""
    detector = make_detector(tmp_path, "rollback", lr_factor=0.5)
    values = (*PLUNGE[:4], -0.5, -0.5, -0.5)
    run, probes = run_scripted(tmp_path, values, detector=detector)
    alone, unwatched = run_scripted(tmp_path)
    assert torch.equal(run.tap.parameters[1], alone.tap.parameters[1])
    assert torch.equal(run.tap.parameters[2], run.tap.parameters[1])  # the tap looks after the rollback
    assert not torch.equal(run.tap.parameters[3], run.tap.parameters[2])
    assert probes.batches == unwatched.batches
    rates = [call["train/lr"] for call in run.train if "train/lr" in call]
    assert rates == pytest.approx([1e-2 * 0.9**step * (1 if step < 3 else 0.5) for step in range(6)])
    assert events(tmp_path) == [(3, "collapsed"), (3, "rollback")]
    assert detector.summary() | {"step": 0, "reason": ""} == {
        "state": "healthy",
        "step": 0,
        "reason": "",
        "rollbacks": 1,
    }


def test_a_rollback_restores_the_optimizer_too(tmp_path: Path) -> None:
    """With factor 1 and the same batch again, training repeats the very step that it took back."""
    module = make_module("redi", make_backbone(), optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2))
    detector = make_detector(tmp_path, "rollback", lr_factor=1.0)
    callbacks = [ScriptedProbes((-0.5, -0.55, -1.5, -0.5)), detector]
    run = fit(module, make_data("redi", batch_size=17), max_steps=3, max_epochs=3, callbacks=callbacks)
    plain = make_module("redi", make_backbone(), optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2))
    straight = fit(plain, make_data("redi", batch_size=17), max_steps=2, max_epochs=3)
    assert detector.num_rollbacks == 1
    assert torch.allclose(run.tap.parameters[2], straight.tap.parameters[1], atol=1e-6)


def test_a_rollback_can_lower_alpha(tmp_path: Path) -> None:
    detector = make_detector(tmp_path, "rollback", alpha_factor=0.5)
    run, _ = run_scripted(tmp_path, (*PLUNGE[:4], -0.5, -0.5, -0.5), detector=detector)
    assert run.trainer.lightning_module.alpha == pytest.approx(0.4)
    assert json.loads((tmp_path / EVENTS).read_text().splitlines()[-1])["reason"] == (
        "back to the weights of step 2, learning rate × 0.5, alpha 0.4"
    )


def test_rollbacks_are_counted_and_end(tmp_path: Path) -> None:
    detector = make_detector(tmp_path, "rollback", max_rollbacks=2)
    run, _ = run_scripted(tmp_path, (-0.5, -0.4, -1.5, -1.6, -1.7, -1.8, -1.9), detector=detector)
    assert events(tmp_path) == [
        (2, "collapsed"), (2, "rollback"), (3, "collapsed"), (3, "rollback"), (4, "collapsed"), (4, "stop"),
    ]  # fmt: skip
    assert run.trainer.global_step == 4
    assert detector.stop is not None
    assert detector.stop.by == "collapse"
    assert detector.stop.reason.startswith("2 rollbacks did not help: ")
    assert not (tmp_path / SNAPSHOT).exists()


@pytest.mark.slow  # sixty steps; that weights and optimizer come back is tested above
def test_a_run_that_collapses_recovers_with_a_rollback(tmp_path: Path) -> None:
    """REDI with alpha 1 at a rate far too high, on a policy that SFT has taught a little."""
    taught = make_backbone()
    fit(make_module("sft", taught, optimizer=partial(torch.optim.AdamW, lr=1e-2)), make_data("sft"), max_steps=30)
    data = make_data("redi", num_validation=4)
    held_back = [sequence for example in data.val_examples for sequence in example]
    last: dict[str, float] = {}
    for action in ("warn", "rollback"):
        folder = tmp_path / action
        detector = make_detector(folder, action, lr_factor=0.1)
        folder.mkdir()
        rate = partial(torch.optim.AdamW, lr=1e-2)
        run = fit(
            make_module("redi", copy.deepcopy(taught), optimizer=rate, alpha=1.0),
            data,
            max_steps=12,
            callbacks=[Probes(held_back, 100_000, every_n_steps=1), detector],
            limit_val_batches=0,
        )
        last[action] = [call[CHOSEN_PROBE] for _, call in run.log.calls if CHOSEN_PROBE in call][-1]
        assert (detector.verdict.state is CollapseState.COLLAPSED) == (action == "warn")
    assert detector.num_rollbacks == 1
    assert last["warn"] < last["rollback"] - 0.5  # nats per token


def test_without_probes_the_batches_are_watched(tmp_path: Path) -> None:
    detector = make_detector(tmp_path, "warn", drifting_nats=1e-7, collapsed_nats=1e-6, deviations=1e-6)
    rising = partial(torch.optim.SGD, lr=0.5, maximize=True)  # climbs the loss: every batch gets less likely
    module = make_module("sft", make_backbone(), optimizer=rising)
    fit(module, make_data("sft", batch_size=20), max_steps=12, max_epochs=12, callbacks=[detector])
    assert detector.verdict.state is CollapseState.COLLAPSED
    assert "the batches' chosen traces" in detector.verdict.reason


@pytest.mark.parametrize(("later", "state"), [(0.61, CollapseState.DRIFTING), (0.59, CollapseState.COLLAPSED)])
def test_where_a_drift_begins_accuracy_is_measured_and_decides(
    later: float, state: CollapseState, tmp_path: Path
) -> None:
    """From 0.8 before training; nothing asks for it again before the end but the drift after step 2."""
    asked = []

    def measure(policy: CausalLM) -> dict[str, float]:
        asked.append(policy.training)
        return {"pass_at_1": 0.8 if len(asked) == 1 else later}

    detector = make_detector(tmp_path, "warn")
    accuracy = InTrainingAccuracy(measure, every_n_steps=100)
    module = make_module("redi", make_backbone())
    callbacks = [accuracy, ScriptedProbes((-0.5, -0.55, -0.7, -0.7)), detector]
    run = fit(module, make_data("redi"), max_steps=4, callbacks=callbacks)
    measured = [step for step, call in run.log.calls if "val/pass_at_1" in call]
    assert measured == [0, 2, 4]
    assert asked == [False] * 3
    assert (detector.verdict.state, detector.verdict.step) == (state, 2)
    assert ("accuracy fell from 0.8 to 0.59" in detector.verdict.reason) == (state is CollapseState.COLLAPSED)


def test_a_resumed_detector_goes_on_where_it_was(tmp_path: Path) -> None:
    first = make_detector(tmp_path, "rollback", alpha_factor=0.5)
    run_scripted(tmp_path, (*PLUNGE[:4], -0.7, -0.7, -0.7), detector=first)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second = make_detector(tmp_path, "rollback", alpha_factor=0.5)
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert second.state_dict() == first.state_dict()
    assert second.summary() == first.summary()
    assert second.summary()["rollbacks"] == 1


def test_a_resumed_detector_waits_for_the_next_probes(tmp_path: Path) -> None:
    """Batches are logged at every step, probes are not; judging by both would compare what cannot be compared."""
    first = make_detector(tmp_path, "warn")
    run_scripted(tmp_path, (-0.5, -0.51), detector=first)
    second = make_detector(tmp_path, "warn")
    second.load_state_dict(first.state_dict())
    run_scripted(tmp_path, (), detector=second)
    assert second.state_dict() == first.state_dict()


def test_events_behind_a_resumed_state_are_forgotten(tmp_path: Path) -> None:
    rows = [{"step": step, "kind": "drifting", "reason": ""} for step in (0, 7)]
    (tmp_path / EVENTS).write_text("".join(json.dumps(row) + "\n" for row in rows))
    run_scripted(tmp_path, (-0.5,), detector=make_detector(tmp_path, "warn"))
    assert events(tmp_path) == [(0, "drifting")]


def test_the_limits_of_the_configuration_are_those_of_the_rule() -> None:
    settings = yaml.safe_load((REPOSITORY / "conf/callbacks/default.yaml").read_text())["collapse"]
    given = {name: value for name, value in settings.items() if name in Limits.__slots__ and value is not None}
    assert given == {name: value for name, value in asdict(Limits()).items() if name != "window_steps"}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_ranks_decide_alike(strategy: str, tmp_path: Path) -> None:
    """Only the first rank's curves collapse; both roll back, both stop, with the same weights."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SLURM"))}
    done = subprocess.run(
        [sys.executable, "-m", "tests.callbacks.scripted_collapse", str(tmp_path), strategy],
        cwd=REPOSITORY,
        env=environment | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1))
    assert first == second
    assert (first["rollbacks"], first["stop"]) == (1, ["collapse", 4])
