"""What came of a stage: its checkpoints and their scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, final

from redi_lab.evaluation.results import EvaluationResult
from redi_lab.run.evaluation import nested_metrics
from redi_lab.run.stages import Stage, StageRecord
from redi_lab.tracking.journal import read_curves


def metrics_of(result: EvaluationResult | None) -> dict[str, Any]:
    """Scores with their intervals, for a summary."""
    return {} if result is None else nested_metrics(result.metrics)


_ENDS = {
    **dict.fromkeys(("probe/chosen_mean_logps", "probe/rejected_mean_logps", "probe/displacement_per_nat"), 1),
    **dict.fromkeys(("train/mean_logps/chosen", "train/mean_logps/rejected", "train/rewards/slope"), 10),
}
"""Curves of which a summary says where they begin and end, and over how many values: single batches are noisy."""


def ends_of_curves(folder: Path) -> dict[str, dict[str, float]]:
    """Where the curves that describe a training begin and end, those of `_ENDS` that the journal in a folder has."""
    curves = read_curves(folder / "metrics.jsonl")
    known = {name: (curves[name].values, number) for name, number in _ENDS.items() if name in curves}
    return {name: {"start": fmean(v[:number]), "end": fmean(v[-number:])} for name, (v, number) in known.items()}


@final
@dataclass(frozen=True)
class Best:
    """The checkpoint that `callbacks.checkpoints.monitor` chose during training, evaluated as the last one is.

    `note` says at which step and by which value it was chosen.
    """

    checkpoint: Path
    note: Mapping[str, float]
    result: EvaluationResult | None

    def as_dict(self) -> dict[str, Any]:
        """For a summary."""
        return {"checkpoint": str(self.checkpoint), "chosen": dict(self.note), "metrics": metrics_of(self.result)}


@final
@dataclass(frozen=True)
class Outcome:
    """A stage that is trained and evaluated: its last checkpoint and, where one was chosen, its best."""

    stage: Stage
    record: StageRecord
    result: EvaluationResult | None
    best: Best | None
    is_reused: bool

    def as_dict(self) -> dict[str, Any]:
        """For a summary."""
        return {
            "name": self.stage.name,
            "fingerprint": self.stage.fingerprint,
            "checkpoint": str(self.record.checkpoint),
            "output_dir": str(self.record.output_dir),
            "is_reused": self.is_reused,
            "metrics": metrics_of(self.result),
            "best": self.best and self.best.as_dict(),
        }
