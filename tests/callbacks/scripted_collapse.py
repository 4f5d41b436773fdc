"""Runs whose probes say what a test wants, and two gloo ranks that disagree.

`python -m tests.callbacks.scripted_collapse FOLDER STRATEGY` trains on two ranks; test_collapse.py starts it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import pytorch_lightning as pl
import torch

from redi_lab.callbacks.collapse import CollapseDetector
from redi_lab.callbacks.collapse_rule import CHOSEN_PROBE
from redi_lab.callbacks.measuring import record
from tests.modules.tiny_runs import GradientTap, Run, fit, make_backbone, make_data, make_module, make_strategy

PLUNGE = (-0.5, -0.49, -0.48, -1.48, -2.5, -3.5, -4.5)
"""Healthy before training and after two steps; beyond the limit of 0.3 nats after the third."""


@final
class ScriptedProbes(pl.Callback):
    """Logs `values[i]` as the chosen probe after i steps, and keeps what each batch held."""

    def __init__(self, values: Sequence[float]) -> None:
        self.values = list(values)
        self.batches: list[list[int]] = []

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._log(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self.batches.append([id_ for micro in batch.micro_batches for id_ in micro.input_ids.flatten().tolist()])
        self._log(trainer)

    def _log(self, trainer: pl.Trainer) -> None:
        if trainer.global_step < len(self.values):
            record(trainer, {CHOSEN_PROBE: self.values[trainer.global_step]}, trainer.global_step)


def make_detector(folder: Path, action: Any, **options: Any) -> CollapseDetector:
    """A detector that keeps a snapshot after each healthy step."""
    factors = {"lr_factor": 0.5, "alpha_factor": 1.0, "max_rollbacks": 3, "snapshot_every_n_steps": 1}
    return CollapseDetector(folder, action, **factors | options)


def run_scripted(
    folder: Path, values: Sequence[float] = PLUNGE, *, detector: CollapseDetector | None = None, **options: Any
) -> tuple[Run, ScriptedProbes]:
    """Six steps of REDI (alpha 0.8) with AdamW and a learning rate that falls by a tenth of itself with each step."""
    module = make_module(
        "redi",
        make_backbone(),
        optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2),
        scheduler=lambda optimizer, _: torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.9**step),
    )
    probes = ScriptedProbes(values)
    callbacks = [probes, *([] if detector is None else [detector])]
    return fit(module, make_data("redi"), max_steps=6, callbacks=callbacks, **options), probes


def events(folder: Path) -> list[tuple[int, str]]:
    """(step, kind) of each."""
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    return [(event["step"], event["kind"]) for event in map(json.loads, lines)]


def on_two_ranks(folder: Path, strategy: str) -> None:
    """The first rank's curves collapse, the second's do not."""
    detector = make_detector(folder, "rollback", max_rollbacks=1)
    rank = 0

    @final
    class Disagreeing(pl.Callback):
        """Lets the second rank see calm curves alone."""

        def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
            nonlocal rank
            rank = trainer.global_rank
            if rank == 1:
                probes.values[:] = [-0.5 - 0.001 * step for step in range(len(probes.values))]

    tap = GradientTap()
    probes = ScriptedProbes((-0.5, -0.49, -1.5, -0.48, -1.6, -1.7, -1.8))
    module = make_module("redi", make_backbone(), optimizer=lambda groups: torch.optim.AdamW(groups, lr=1e-2))
    callbacks = [Disagreeing(), probes, detector, tap]
    run = fit(module, make_data("redi"), max_steps=6, callbacks=callbacks, devices=2, strategy=make_strategy(strategy))
    stop = detector.stop
    outcome = {
        "steps": run.trainer.global_step,
        "rollbacks": detector.num_rollbacks,
        "stop": None if stop is None else [stop.by, stop.step],
        "weights": tap.parameters[-1].tolist(),
    }
    (folder / f"rank-{rank}.json").write_text(json.dumps(outcome), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    on_two_ranks(Path(sys.argv[1]), sys.argv[2])
