"""Killed at any moment and started again, a training ends with the same weights and the same log, to the bit."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import pytest
import pytorch_lightning as pl
import torch

from redi_lab.callbacks.resume import states_in
from redi_lab.errors import EXIT_RESUMABLE, RunInterruptedError
from tests.callbacks.resume_runs import (
    BATCH_SIZES,
    STEPS,
    log,
    num_lines,
    send_at,
    start,
    start_two_ranks,
    stop_server,
    train,
    weights,
)
from tests.modules.tiny_runs import HARMLESS_WARNINGS, LORA

pytestmark = [pytest.mark.filterwarnings(warning) for warning in HARMLESS_WARNINGS]
Uninterrupted = Callable[[str], Path]


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Uninterrupted]:
    """The folder of a training of an objective that ran through, without loader workers."""
    folders: dict[str, Path] = {}

    def folder(objective: str) -> Path:
        if objective not in folders:
            folders[objective] = tmp_path_factory.mktemp(objective)
            finish(folders[objective], objective, every_n_steps=None)
        return folders[objective]

    yield folder
    stop_server()


def finish(folder: Path, objective: str, **options: Any) -> None:
    process = start(folder, objective, **options)
    process.join()
    assert process.exitcode == 0


def assert_same(folder: Path, expected: Path) -> None:
    assert log(folder) == log(expected)
    best = Path("checkpoints", "best", "best.json")
    assert (folder / best).read_text() == (expected / best).read_text()
    found, wanted = weights(folder), weights(expected)
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


def kill_and_restart(folder: Path, objective: str, kills: int, rng: random.Random, **options: Any) -> int:
    """Kill at random moments, further on each time, and let the rest run through; how many kills hit."""
    hit = 0
    for number in range(kills):
        process = start(folder, objective, **options)
        line = rng.randint(num_lines(folder), max(num_lines(folder), STEPS * (number + 1) // kills))
        hit += send_at(process, folder, line, rng.uniform(0, 0.03), signal.SIGKILL)
        process.join()
    finish(folder, objective, **options)
    return hit


@final
class EndAt(pl.Callback):
    """Ends a training in the middle: by a signal, which saves a state, or by a crash, which does not."""

    def __init__(self, step: int, number: signal.Signals | None) -> None:
        self._step, self._number = step, number

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == self._step:
            if self._number is None:
                raise RuntimeError("out of memory")
            signal.raise_signal(self._number)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """What a training in this process changes is put back."""
    number, handlers = torch.get_num_threads(), {n: signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)}
    yield
    torch.set_num_threads(number)
    for signum, handler in handlers.items():
        signal.signal(signum, handler)


@pytest.mark.usefixtures("one_thread")
def test_a_training_that_ends_in_the_middle_goes_on_to_the_bit(tmp_path: Path) -> None:
    """Once by SIGTERM, once by a crash two steps behind the last state, in one process."""
    through, folder = tmp_path / "through", tmp_path / "ended"
    train(through, "redi", every_n_steps=None)
    with pytest.raises(RunInterruptedError, match="SIGTERM: the state after 4 steps is saved"):
        train(folder, "redi", every_n_steps=None, callbacks=[EndAt(4, signal.SIGTERM)])
    assert [state.name for state in states_in(folder / "states")] == ["step-00000004"]
    with pytest.raises(RuntimeError, match="out of memory"):
        train(folder, "redi", every_n_steps=5, callbacks=[EndAt(12, None)])
    assert [state.name for state in states_in(folder / "states")] == ["step-00000005", "step-00000010"]
    train(folder, "redi")
    assert [state.name for state in states_in(folder / "states")] == ["step-00000013", "step-00000014"]
    assert_same(folder, through)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("kind", [None, "nf4"])
def test_adapters_go_on_to_the_bit(kind: str | None, tmp_path: Path) -> None:
    """With dropout, from a state that holds them alone."""
    if kind is not None:
        pytest.importorskip("bitsandbytes", reason="pip install 'redi-lab[qlora]'")
    adapters = replace(LORA[kind], dropout=0.2)
    through, folder = tmp_path / "through", tmp_path / "ended"
    train(through, "redi", every_n_steps=None, adapters=adapters)
    with pytest.raises(RuntimeError, match="out of memory"):
        train(folder, "redi", every_n_steps=5, callbacks=[EndAt(7, None)], adapters=adapters)
    saved = torch.load(folder / "states" / "step-00000005" / "policy.pt", weights_only=True)["policy"]
    assert saved
    assert all(".lora_" in name for name in saved)
    train(folder, "redi", adapters=adapters)
    assert_same(folder, through)


@pytest.mark.slow
def test_three_random_kills_leave_no_trace(uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    rng = random.Random(f"{tmp_path}")
    assert kill_and_restart(tmp_path, "redi", 3, rng) == 3
    assert_same(tmp_path, uninterrupted("redi"))


@pytest.mark.slow
@pytest.mark.parametrize("objective", list(BATCH_SIZES))
def test_many_random_kills(objective: str, uninterrupted: Uninterrupted, tmp_path: Path) -> None:
    """Four kills each."""
    rng = random.Random(f"{tmp_path}")
    hit = kill_and_restart(tmp_path, objective, 4, rng, every_n_steps=rng.choice([1, 3]))
    assert hit >= 3
    assert_same(tmp_path, uninterrupted(objective))


@pytest.mark.slow
@pytest.mark.parametrize(("objective", "strategy"), [("redi", "ddp"), ("dpo", "ddp"), ("redi", "fsdp2")])
def test_two_ranks_go_on_together(objective: str, strategy: str, tmp_path: Path) -> None:
    rng = random.Random(f"{tmp_path}")
    through, folder = tmp_path / "through", tmp_path / "killed"
    assert start_two_ranks(through, objective, strategy).wait() == 0
    for number in (signal.SIGKILL, signal.SIGTERM):
        process = start_two_ranks(folder, objective, strategy)
        line = num_lines(folder) + rng.randint(1, STEPS // 3)
        assert send_at(process, folder, line, rng.uniform(0, 0.03), number, to_group=number == signal.SIGKILL)
        assert process.wait() == (-number if number == signal.SIGKILL else EXIT_RESUMABLE)
    assert start_two_ranks(folder, objective, strategy).wait() == 0
    assert_same(folder, through)
    for name, tensor in weights(folder, rank=0).items():
        assert torch.equal(weights(folder, rank=1)[name], tensor)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_says_resume_me(
    number: signal.Signals, uninterrupted: Uninterrupted, tmp_path: Path
) -> None:
    process = start(tmp_path, "redi", every_n_steps=None)
    assert send_at(process, tmp_path, 8, 0.0, number)
    process.join()
    assert process.exitcode == EXIT_RESUMABLE
    (state,) = states_in(tmp_path / "states")  # none but the one that the signal asked for
    finish(tmp_path, "redi", every_n_steps=None)
    assert 0 < int(state.name.removeprefix("step-")) < STEPS
    assert_same(tmp_path, uninterrupted("redi"))
