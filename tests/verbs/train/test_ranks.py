"""A stage that is trained on two ranks: the numbers of one, and what a signal or a kill leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl

from redi_lab.cli import main
from redi_lab.config.compose import load_config
from redi_lab.errors import EXIT_RESUMABLE, RunInterruptedError, UserError
from redi_lab.run.stages import resolve_chain
from redi_lab.tracking.journal import Curve, read_curves
from redi_lab.verbs.train.command import run_training
from redi_lab.verbs.train.ranks import _explained
from tests.conftest import REPOSITORY

Tiny = Callable[..., list[str]]
OWN_PACE = ("train/tokens_per_second", "train/row_fill", "train/padding_share")
"""What is not the same on two ranks: the clock, and how shares fill their rows."""


def curves(folder: Path) -> dict[str, Curve]:
    """All but what depends on how ranks share work, or on the clock."""
    found = read_curves(folder / "metrics.jsonl").items()
    return {name: curve for name, curve in found if name not in OWN_PACE and not name.startswith("plan/")}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2 trainer.fsdp_offload=true"])
def test_two_ranks_give_the_losses_of_one_and_are_found_by_it(strategy: str, tiny: Tiny, tmp_path: Path) -> None:
    """The chain's first stage on two ranks, where probes, accuracy, validation and checkpoints are as ever."""
    settings = tiny("+experiment=demo_sft", "data.num_validation=4", "eval=none", "trainer.max_steps=4")
    settings.append("model.gradient_checkpointing=full")
    one, two = tmp_path / "one", tmp_path / "two"
    main([*settings, "trainer.devices=2", *f"trainer.strategy={strategy}".split(), f"paths.output_dir={two}"])
    assert not (two / "ranks").exists()
    assert not (two / "states").exists()
    summary: dict[str, Any] = json.loads((two / "summary.json").read_text())
    assert (summary["stopped"], summary["skipped_batches"]) == (None, 0)
    main([*settings, f"paths.cache_dir={tmp_path / 'other'}", f"paths.output_dir={one}"])
    assert json.loads((one / "summary.json").read_text())["fingerprint"] == summary["fingerprint"]
    found, expected = curves(two), curves(one)
    assert found.keys() == expected.keys() >= {"train/loss", "val/loss", "val/pass_at_1", "probe/chosen_mean_logps"}
    for name, curve in expected.items():
        assert found[name].steps == curve.steps
        exact = 1e-6 if name.endswith("/loss") else 1e-4
        assert found[name].values == pytest.approx(curve.values, rel=exact, abs=exact), name


def command(*arguments: str) -> subprocess.Popen[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SLURM"))}
    return subprocess.Popen(
        [sys.executable, "-m", "redi_lab", *arguments],
        cwd=REPOSITORY,
        env=environment | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_step(process: subprocess.Popen[str], folder: Path, step: int) -> None:
    while process.poll() is None:
        path = folder / "metrics.jsonl"
        if path.exists() and f'"step": {step},' in path.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(process.communicate()[1])


def ranks_of(process: subprocess.Popen[str]) -> dict[int, int]:
    """Process id of each rank."""
    found: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            environment = (path / "environ").read_bytes().split(b"\0")
        except (OSError, ValueError):
            continue
        if parent == process.pid:
            found |= {int(e.partition(b"=")[2]): int(path.name) for e in environment if e.startswith(b"RANK=")}
    return found


def end(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=600)[1]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_what_ends_a_training_on_two_ranks_and_how_it_goes_on(strategy: str, tiny: Tiny, tmp_path: Path) -> None:
    """SIGTERM to the command, SIGKILL to a rank, SIGKILL to the command, SIGTERM to a rank; then to the bit."""
    settings = [
        *tiny("+experiment=demo_sft", "data.num_validation=4", "eval=none", "trainer.max_steps=-1"),
        *("trainer.devices=2", f"trainer.strategy={strategy}", "trainer.max_epochs=12", "data.batch_size=8"),
        "callbacks.state.every_n_steps=1",
    ]
    through, folder = tmp_path / "through", tmp_path / "killed"
    whole = command(*settings, f"paths.cache_dir={tmp_path / 'other'}", f"paths.output_dir={through}")
    assert (end(whole), whole.returncode) == ("", 0)
    settings.append(f"paths.output_dir={folder}")

    process = command(*settings)
    wait_for_step(process, folder, 4)
    process.send_signal(signal.SIGTERM)
    said = end(process)
    assert process.returncode == EXIT_RESUMABLE
    (line,) = said.strip().splitlines()
    assert line.startswith("redi_lab: SIGTERM; to go on, give the same command again")

    process = command(*settings)
    wait_for_step(process, folder, 12)
    os.kill(ranks_of(process)[1], signal.SIGKILL)
    said = end(process)
    assert process.returncode == 2
    assert said.strip().splitlines() == [
        "redi_lab: rank 1 of 2 was ended by SIGKILL (often too little memory): give the same command again, which goes"
        " on from the last state"
    ]

    process = command(*settings)
    wait_for_step(process, folder, 20)
    left = ranks_of(process)
    process.kill()
    end(process)
    began = time.monotonic()
    while any(Path(f"/proc/{pid}").exists() for pid in left.values()):
        assert time.monotonic() - began < 30, "a rank outlived its command"
        time.sleep(0.1)

    process = command(*settings)
    wait_for_step(process, folder, 28)
    os.kill(ranks_of(process)[1], signal.SIGTERM)
    said = end(process)
    assert process.returncode == EXIT_RESUMABLE
    (line,) = said.strip().splitlines()
    assert line.startswith("redi_lab: a signal to a rank; to go on")

    process = command(*settings)
    assert (end(process), process.returncode) == ("", 0)
    assert curves(folder) == curves(through)
    weights = "checkpoints/last/model.safetensors"
    assert (folder / weights).read_bytes() == (through / weights).read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("two", "three"), [("ddp", "ddp"), ("fsdp2", "fsdp2"), ("ddp", "fsdp2")])
def test_another_number_of_ranks_goes_on_with_the_same_batches(
    two: str, three: str, tiny: Tiny, tmp_path: Path
) -> None:
    """Two ranks, then one, then three, against one alone."""
    settings = [
        *tiny("+experiment=demo_sft", "data.num_validation=4", "eval=none", "trainer.max_steps=-1"),
        *("trainer.max_epochs=8", "data.batch_size=8"),
    ]
    through, folder = tmp_path / "through", tmp_path / "moved"
    whole = command(*settings, f"paths.cache_dir={tmp_path / 'other'}", f"paths.output_dir={through}")
    assert (end(whole), whole.returncode) == ("", 0)
    process = command(*settings, f"paths.output_dir={folder}", "trainer.devices=2", f"trainer.strategy={two}")
    wait_for_step(process, folder, 4)
    process.send_signal(signal.SIGTERM)
    end(process)
    assert process.returncode == EXIT_RESUMABLE
    process = command(f"resume={folder}", "trainer.devices=1", "trainer.strategy=auto")
    wait_for_step(process, folder, 14)
    process.send_signal(signal.SIGTERM)
    end(process)
    assert process.returncode == EXIT_RESUMABLE
    process = command(f"resume={folder}", "trainer.devices=3", f"trainer.strategy={three}")
    said = end(process)
    assert process.returncode == 0, said
    found, expected = (curves(one)["train/loss"] for one in (folder, through))
    assert found.steps == expected.steps
    assert found.values == pytest.approx(expected.values, rel=1e-6, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("is_mistake", [True, False])
def test_an_error_of_one_rank_is_shown_once(tiny: Tiny, tmp_path: Path, is_mistake: bool) -> None:
    """Also where it is not the first rank's."""
    failing = "_target_: tests.verbs.train.failing.FailingRank, is_mistake: " + str(is_mistake).lower()
    settings = tiny("+experiment=demo_sft", "eval=none", "trainer.devices=2", f"paths.output_dir={tmp_path / 'run'}")
    process = command(*settings, f"+callbacks.failing={{{failing}}}")
    said = end(process)
    if is_mistake:
        assert (said.strip(), process.returncode) == ("redi_lab: rank 1 cannot go on", 2)
    else:
        assert process.returncode == 1
        assert said.count("\nZeroDivisionError") == 1
        assert "rank 1 of 2 failed" in said


def failure(exitcode: int, message: str = "", timestamp: int = 0) -> Any:
    return SimpleNamespace(exitcode=exitcode, message=message, timestamp=timestamp)


@pytest.mark.parametrize(
    ("failures", "kind", "message"),
    [
        ({0: failure(1, "connection closed", 1), 1: failure(-9, timestamp=2)}, UserError, "rank 1 of 2 was .* SIGKILL"),
        ({0: failure(-15), 1: failure(2, "loss.alpha=7: must")}, UserError, "^loss.alpha=7: must$"),
        ({0: failure(75), 1: failure(-15)}, RunInterruptedError, "a signal to a rank"),
        ({0: failure(1, "second", 5), 1: failure(1, "first", 4)}, RuntimeError, "rank 1 of 2 failed:\nfirst"),
    ],
)
def test_the_rank_that_ended_first_explains_the_others(
    failures: dict[int, Any], kind: type[BaseException], message: str
) -> None:
    with pytest.raises(kind, match=message):
        raise _explained(failures, 2)


def test_sweeps_train_on_one_device(tiny: Tiny) -> None:
    overrides = tiny("trainer.devices=2")
    with pytest.raises(UserError, match=r"trainer\.devices=2: a sweep's trials train on one device each"):
        run_training(load_config("train", overrides), overrides, [pl.Callback()])


def test_earlier_stages_have_the_devices_of_the_last(tiny: Tiny) -> None:
    overrides = tiny("trainer.devices=2", "trainer.max_steps=1")
    first, last = (stage.config for stage in resolve_chain(load_config("train", overrides), overrides))
    assert (first.trainer.devices, last.trainer.devices, first.trainer.max_steps) == (2, 2, 3)
