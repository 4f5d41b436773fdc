"""Numbers that must not reach the weights: NaN or infinite log-probs and gradients, exploding norms, empty batches.

The check comes between backward pass and optimizer step, so the policy that it stops at is still sound. Every such
batch is recorded in `bad_batches.jsonl` with the ids of its sequences.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import deque
from pathlib import Path
from typing import Any, Literal, final

import pytorch_lightning as pl
import torch
from torch import Tensor

from redi_lab.callbacks.stopping import Stop, StoppingCallback
from redi_lab.data.packing import Batch

BAD_BATCHES = "bad_batches.jsonl"
_WINDOW, _ENOUGH = 50, 10  # the most and the fewest gradient norms that a new one is compared with


@final
class NumericsGuard(StoppingCallback):
    """Keeps the optimizer from stepping on meaningless numbers.

    Args:
        folder: where bad_batches.jsonl goes.
        action: "stop" training before the step, or "skip" the batch: no step of optimizer or schedule.
        max_skips: after this many skipped batches, the next bad one stops training.
        explosion: a gradient norm this many times the median of the last steps' counts as exploded; None: every finite
            norm is accepted.
    """

    def __init__(self, folder: Path, action: Literal["stop", "skip"], max_skips: int, explosion: float | None) -> None:
        self.folder = folder
        self.action = action
        self.max_skips = max_skips
        self.explosion = explosion
        self.num_skipped = 0
        self._norms: deque[float] = deque(maxlen=_WINDOW)
        self._trainer: pl.Trainer | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have the module ask before each step."""
        self._trainer = trainer
        pl_module.may_step = self.may_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the module as it was."""
        self._trainer = pl_module.may_step = None

    def may_step(self, batch: Batch, logps: Tensor, grad_norm: Tensor) -> bool:
        """Whether the optimizer may step; on every rank alike, as each is given the same numbers.

        Args:
            batch: what the gradient is of.
            logps: (S,) log-probs of its sequences.
            grad_norm: () norm of the whole gradient, before clipping.
        """
        assert self._trainer is not None
        norm = grad_norm.item()
        unsound = ~torch.isfinite(logps)
        reason = self._what_is_wrong(batch, unsound, norm)
        if reason is None:
            self._norms.append(norm)
            return True
        self._refuse(batch, unsound, norm, reason)
        return False

    def state_dict(self) -> dict[str, Any]:
        """How many batches were skipped, and which norms are usual."""
        return {"num_skipped": self.num_skipped, "norms": list(self._norms)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting."""
        self.num_skipped = state_dict["num_skipped"]
        self._norms.extend(state_dict["norms"])

    def _what_is_wrong(self, batch: Batch, unsound: Tensor, norm: float) -> str | None:
        if batch.num_examples == 0 or batch.num_completion_tokens == 0:
            return "the batch holds nothing to learn from"
        if unsound.any():
            return f"the log-probs of {int(unsound.sum())} of {len(unsound)} sequences are not finite"
        if not math.isfinite(norm):
            return f"the gradient is not finite (norm {norm})"
        if self.explosion is None or len(self._norms) < _ENOUGH:
            return None
        usual = statistics.median(self._norms)
        return f"the gradient's norm is {norm:.3g}, usual is {usual:.3g}" if norm > self.explosion * usual else None

    def _refuse(self, batch: Batch, unsound: Tensor, norm: float, reason: str) -> None:
        assert self._trainer is not None
        step = self._trainer.fit_loop.epoch_loop._batches_that_stepped
        is_skipped = self.action == "skip" and self.num_skipped < self.max_skips
        self.num_skipped += is_skipped
        row = {
            "step": step,
            "reason": reason,
            "action": "skip" if is_skipped else "stop",
            "grad_norm": norm if math.isfinite(norm) else str(norm),
            "unsound_ids": [batch.ids[index] for index in unsound.nonzero().flatten().tolist()],
            "ids": batch.ids,
        }
        if self._trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / BAD_BATCHES).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
        if not is_skipped:
            skipped = f" ({self.num_skipped} batches were skipped before)" if self.num_skipped else ""
            remedy = "" if self.action == "skip" else "; callbacks.numerics.action=skip leaves such batches out"
            self.end_training(
                self._trainer,
                Stop(
                    "numerics",
                    step,
                    f"{reason}{skipped}: no step was taken, {BAD_BATCHES} names the sequences; lower optimizer.lr or"
                    f" set optimizer.max_grad_norm{remedy}",
                ),
            )


def num_skipped(callbacks: list[pl.Callback]) -> int:
    """How many batches were left out for their numbers."""
    return sum(callback.num_skipped for callback in callbacks if isinstance(callback, NumericsGuard))
