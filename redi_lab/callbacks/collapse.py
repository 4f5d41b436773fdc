"""Watches for training collapse with `collapse_rule`, reports it, and takes the action that the user chose.

    python -m redi_lab loss.alpha=1 callbacks.collapse.action=rollback

Logged with every measurement: `collapse/state` (0 healthy, 1 drifting, 2 collapsed) and `collapse/statistic` (1 is at
the limit). Every change of state and every action is a line of `events.jsonl`: {"step", "kind", "reason"}.
"""

from __future__ import annotations

import json
import logging
import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, final

import pytorch_lightning as pl

from redi_lab.callbacks.accuracy import InTrainingAccuracy
from redi_lab.callbacks.collapse_rule import (
    ACCURACY,
    CollapseState,
    CollapseVerdict,
    Limits,
    Memory,
    observe,
    watched_curves,
)
from redi_lab.callbacks.measuring import record
from redi_lab.callbacks.stopping import Stop, StoppingCallback
from redi_lab.callbacks.training_state import load_state, save_state

_LOG = logging.getLogger(__name__)
_WINDOW_SHARE = 0.1
EVENTS = "events.jsonl"
SNAPSHOT = "last_healthy"
Action = Literal["warn", "stop", "rollback"]


@final
class CollapseDetector(StoppingCallback):
    """Applies the collapse rule to what was logged; it has to come after the callbacks that measure.

    Where a run begins to drift between two measurements of accuracy, accuracy is measured at once, and decides. With
    several ranks, the first one's numbers count for all, so that all decide alike.

    A rollback puts policy and optimizer back to the last healthy snapshot. Data and schedule go on where they are: no
    batch is seen again, and the learning rate is that of the present step times `lr_factor`.

    Args:
        folder: of the run; events.jsonl and the snapshot go there.
        action: on collapse: "warn"; "stop" training; or "rollback".
        lr_factor: a rollback multiplies the learning rate by it.
        alpha_factor: a rollback multiplies the objective's alpha by it; 1 where it has none.
        max_rollbacks: after this many rollbacks, the next collapse stops training.
        snapshot_every_n_steps: least number of steps between two snapshots, which only rollbacks need.
        window_steps: steps within which a fall counts; None: a tenth of the training, but at least those of `Limits`.
        **limits: the others of `Limits`.
    """

    def __init__(
        self,
        folder: Path,
        action: Action,
        lr_factor: float,
        alpha_factor: float,
        max_rollbacks: int,
        snapshot_every_n_steps: int,
        window_steps: int | None = None,
        **limits: Any,
    ) -> None:
        self.folder = folder
        self.action = action
        self.lr_factor = lr_factor
        self.alpha_factor = alpha_factor
        self.max_rollbacks = max_rollbacks
        self.snapshot_every_n_steps = snapshot_every_n_steps
        self.limits = Limits(**limits if window_steps is None else limits | {"window_steps": window_steps})
        self._is_window_given = window_steps is not None
        self.num_rollbacks = 0
        self._memory = Memory()
        self._seen: dict[str, float] = {}
        self._snapshot: tuple[int, Memory] | None = None
        self._alpha: float | None = None

    @property
    def verdict(self) -> CollapseVerdict:
        """The latest verdict."""
        return self._memory.verdict

    def summary(self) -> dict[str, Any]:
        """For summary.json: how the run is doing, since which step and why, and how often it was rolled back."""
        verdict = self.verdict
        state = verdict.state.name.lower()
        return {"state": state, "step": verdict.step, "reason": verdict.reason, "rollbacks": self.num_rollbacks}

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs to go on."""
        return {
            "memory": _plain(self._memory),
            "seen": self._seen,
            "snapshot": None if self._snapshot is None else [self._snapshot[0], _plain(self._snapshot[1])],
            "num_rollbacks": self.num_rollbacks,
            "alpha": self._alpha,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what an interrupted run remembers."""
        self._memory = _memory(state_dict["memory"])
        self._seen = dict(state_dict["seen"])
        snapshot = state_dict["snapshot"]
        self._snapshot = None if snapshot is None else (snapshot[0], _memory(snapshot[1]))
        self.num_rollbacks = state_dict["num_rollbacks"]
        self._alpha = state_dict["alpha"]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Apply the rule to what was measured before training, and keep a snapshot of it."""
        steps = trainer.estimated_stepping_batches
        if not self._is_window_given and steps < math.inf:
            shortest = Limits().window_steps
            self.limits = replace(self.limits, window_steps=max(shortest, round(_WINDOW_SHARE * steps)))
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            _forget_events_after(trainer.global_step, self.folder / EVENTS)
        self._apply_rule(trainer, pl_module)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep to a lowered alpha also in a run that was resumed."""
        if self._alpha is not None:
            pl_module.alpha = self._alpha

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Apply the rule to what was measured since the step before, if anything was."""
        self._apply_rule(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Apply the rule to the final state; there is nothing left to act on, and no use for the snapshot."""
        self._apply_rule(trainer, pl_module, may_act=False)
        if trainer.is_global_zero:
            shutil.rmtree(self.folder / SNAPSHOT, ignore_errors=True)

    def _apply_rule(self, trainer: pl.Trainer, module: pl.LightningModule, may_act: bool = True) -> None:
        values = trainer.strategy.broadcast(self._news(trainer))
        if not values:
            return
        before, step = self.verdict.state, trainer.global_step
        self._memory = observe(self._memory, step, values, self.limits)
        if (before, self.verdict.state) == (CollapseState.HEALTHY, CollapseState.DRIFTING) and ACCURACY not in values:
            self._measure_accuracy(trainer, module)
        verdict = self.verdict
        statistic = min(verdict.statistic, 1e6)  # not every metric store takes infinity
        record(trainer, {"collapse/state": int(verdict.state), "collapse/statistic": statistic}, step)
        if verdict.state is not before:
            self._report(trainer, verdict.state.name.lower(), verdict.reason)
        if not may_act:
            return
        if verdict.state is CollapseState.COLLAPSED and before is not CollapseState.COLLAPSED:
            self._act(trainer, module, verdict)
        if verdict.state is CollapseState.HEALTHY and self.action == "rollback":
            self._keep_snapshot(trainer, module)

    def _news(self, trainer: pl.Trainer) -> dict[str, float]:
        """Watched metrics that were measured anew: what was logged before stays in `callback_metrics`."""
        logged = trainer.callback_metrics
        # A resumed run goes on with the probes, although they are not measured again at once.
        names = watched_curves({*logged, *self._memory.points})
        values = {name: float(logged[name]) for name in names if name in logged}
        news = {name: value for name, value in values.items() if value != self._seen.get(name)}
        self._seen |= news
        return news

    def _measure_accuracy(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        callback = next((one for one in trainer.callbacks if isinstance(one, InTrainingAccuracy)), None)
        if callback is not None:
            callback.measure_now(trainer, module)
            self._seen[ACCURACY] = float(trainer.callback_metrics[ACCURACY])
            accuracy = {ACCURACY: self._seen[ACCURACY]}  # the same on every rank
            self._memory = observe(self._memory, trainer.global_step, accuracy, self.limits)

    def _act(self, trainer: pl.Trainer, module: pl.LightningModule, verdict: CollapseVerdict) -> None:
        if self.action == "stop":
            self._report(trainer, "stop", "training ends here")
            self.end_training(trainer, Stop("collapse", trainer.global_step, verdict.reason))
        elif self.action == "rollback":
            self._roll_back(trainer, module, verdict)

    def _roll_back(self, trainer: pl.Trainer, module: pl.LightningModule, verdict: CollapseVerdict) -> None:
        if self._snapshot is None or self.num_rollbacks == self.max_rollbacks:
            why = "no healthy snapshot" if self._snapshot is None else f"{self.num_rollbacks} rollbacks did not help"
            self._report(trainer, "stop", f"training ends here: {why}")
            self.end_training(trainer, Stop("collapse", trainer.global_step, f"{why}: {verdict.reason}"))
            return
        step, memory = self._snapshot
        go_back(trainer, module, self.folder / SNAPSHOT, self.lr_factor)
        self._memory = memory.moved(trainer.global_step - step)
        self.num_rollbacks += 1
        changes = f"learning rate × {self.lr_factor:g}"
        if self.alpha_factor != 1:
            self._alpha = module.alpha = module.alpha * self.alpha_factor
            changes += f", alpha {module.alpha:.3g}"
        self._report(trainer, "rollback", f"back to the weights of step {step}, {changes}")

    def _keep_snapshot(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        step = trainer.global_step
        if self._snapshot is not None and step - self._snapshot[0] < self.snapshot_every_n_steps:
            return
        self._snapshot = (step, self._memory)
        save_state(trainer, module, self.folder / SNAPSHOT)

    def _report(self, trainer: pl.Trainer, kind: str, reason: str) -> None:
        if not trainer.is_global_zero:
            return
        with (self.folder / EVENTS).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": trainer.global_step, "kind": kind, "reason": reason}) + "\n")
        if kind not in ("drifting", "healthy"):
            _LOG.warning("step %d: %s: %s", trainer.global_step, kind, reason)


def collapse_summary(callbacks: Iterable[pl.Callback]) -> dict[str, Any] | None:
    """What the detector among the callbacks says about the run; None without one."""
    return next((callback.summary() for callback in callbacks if isinstance(callback, CollapseDetector)), None)


def go_back(trainer: pl.Trainer, module: pl.LightningModule, snapshot: Path, lr_factor: float) -> None:
    """Put back policy and optimizer, but not the schedule, whose learning rates are scaled from here on.

    Args:
        trainer: the running one.
        module: what it trains.
        snapshot: what `save_state` wrote.
        lr_factor: what the present and all later learning rates are multiplied by.
    """
    rates = [[group["lr"] for group in optimizer.param_groups] for optimizer in trainer.optimizers]
    schedules = [config.scheduler for config in trainer.lr_scheduler_configs]
    present = [schedule.state_dict() for schedule in schedules]
    load_state(trainer, module, snapshot)
    for schedule, state in zip(schedules, present, strict=True):
        schedule.load_state_dict(state)
        schedule.base_lrs = [rate * lr_factor for rate in schedule.base_lrs]
    for optimizer, old in zip(trainer.optimizers, rates, strict=True):
        for group, rate in zip(optimizer.param_groups, old, strict=True):
            group["lr"] = rate * lr_factor


def _forget_events_after(step: int, events: Path) -> None:
    """A resumed run takes the steps after its state again."""
    if events.exists():
        lines = events.read_text(encoding="utf-8").splitlines(keepends=True)
        events.write_text("".join(line for line in lines if json.loads(line)["step"] <= step), encoding="utf-8")


def _plain(memory: Memory) -> dict[str, Any]:
    """As numbers and texts alone, which a training state can hold."""
    return asdict(memory, dict_factory=lambda items: {k: int(v) if k == "state" else v for k, v in items})


def _memory(state: Mapping[str, Any]) -> Memory:
    verdict = CollapseVerdict(**{**state["verdict"], "state": CollapseState(state["verdict"]["state"])})
    return Memory(state["points"], state["best_accuracy"], verdict)
