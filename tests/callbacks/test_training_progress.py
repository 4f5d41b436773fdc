from __future__ import annotations

import io
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from rich.console import Console
from torch.utils.data import DataLoader, TensorDataset

from redi_lab.callbacks.training_progress import COLUMN, TrainingProgress
from redi_lab.run import screen

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*treespec, LeafSpec"),
]
SECONDS = 45.0  # of a step, by the clock of the test


class Clock:
    now = 0.0


class Steps(pl.LightningModule):
    """Logs what our modules log."""

    def __init__(self, clock: Clock, fail_at: int | None = None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))
        self._clock, self._fail_at = clock, fail_at

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        self._clock.now += SECONDS
        if self.global_step == self._fail_at:
            raise ValueError("broken")
        self.log("train/loss", 0.125)
        self.log("train/tokens_per_second", 12345.6)
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def train(
    module: Steps, clock: Clock, monkeypatch: pytest.MonkeyPatch, folder: Path, **options: int
) -> tuple[str, list[str]]:
    """What the terminal shows, and the line of the bar after each step."""
    written, lines = io.StringIO(), []
    console = Console(file=written, force_terminal=True, width=80, get_time=lambda: clock.now, color_system=None)
    monkeypatch.setattr(screen, "CONSOLE", console)
    progress = screen.progress_bar(COLUMN)

    class Look(pl.Callback):
        def on_train_batch_end(self, *_: object) -> None:
            still = Console(file=io.StringIO(), width=80)  # the console itself adds what moves its cursor
            with still.capture() as shown:
                still.print(progress.get_renderable())
            lines.append(shown.get().strip())

    data = DataLoader(TensorDataset(torch.zeros(3, 1)))
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "accelerator": "cpu",
    }
    callbacks = [TrainingProgress(progress), Look()]
    trainer = pl.Trainer(default_root_dir=folder, callbacks=callbacks, **quiet, **options)
    trainer.fit(module, data)
    assert progress.finished
    return written.getvalue(), lines


def test_the_bar_counts_the_whole_training_and_knows_the_time_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    shown, lines = train(Steps(clock), clock, monkeypatch, tmp_path, max_epochs=4)
    assert len(lines) == 12
    assert " 5/12 " in lines[4]
    assert "0:05:15" in lines[4]  # 7 steps of 45 s
    assert "loss 0.125" in lines[4]
    assert "12,346 tokens/s" in lines[4]
    assert all(len(line) <= 80 for line in lines)
    assert "v_num" not in shown


def test_max_steps_decide_where_they_are_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    _, lines = train(Steps(clock), clock, monkeypatch, tmp_path, max_epochs=4, max_steps=5)
    assert len(lines) == 5
    assert " 5/5 " in lines[-1], lines


def test_an_error_gives_the_terminal_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    with pytest.raises(ValueError, match="broken"):
        train(Steps(clock, fail_at=1), clock, monkeypatch, tmp_path, max_epochs=1)
    assert not screen.CONSOLE._live_stack
