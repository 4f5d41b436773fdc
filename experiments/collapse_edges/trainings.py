"""One training or evaluation of the study, in this process, and what is kept of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.collapse_edges.plan import Point
from experiments.runner import COMMON, MEASURED, SFT, places, read_row, train_once

SCORES = ("pass_at_1", "pass_at_4", "greedy_pass_at_1", "haste", "columns")


def start_folder(outputs: Path, seed: int) -> Path:
    """The SFT checkpoint that all trainings of a seed start from."""
    return outputs / f"sft_s{seed}" / "checkpoints" / "last"


def train_start(outputs: Path, seed: int) -> None:
    """Train it, unless it is there."""
    train_once(outputs / f"sft_s{seed}", outputs, [*SFT, f"seed={seed}"])


def train(outputs: Path, point: Point) -> dict[str, Any]:
    """Train a point, unless its summary is there; returns its row."""
    from redi_lab.evaluation.results import checkpoint_hash

    folder, start = outputs / "runs" / point.name, start_folder(outputs, point.seed)
    train_once(folder, outputs, [*point.overrides(), *MEASURED, f"init_from={start}"])
    return {**point._asdict(), "settings": dict(point.settings), **read_row(folder), "start": checkpoint_hash(start)}


def evaluate(outputs: Path, checkpoint: Path, name: str, seed: int, smaller: Sequence[str] = ()) -> dict[str, float]:
    """Score a checkpoint on a seed's 600 held-out problems, which neither training nor development saw."""
    from redi_lab.config.compose import load_config
    from redi_lab.verbs.evaluate.command import run_evaluation

    folder = outputs / "fresh" / name
    if not (folder / "summary.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        asked = ["eval=arithmetic", "eval.max_new_tokens=96", *smaller]  # also those that were trained on a file
        overrides = [f"checkpoint={checkpoint}", f"seed={seed}", COMMON[0], *places(outputs, folder)]
        run_evaluation(load_config("evaluate", [*asked, *overrides]))
    metrics = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["metrics"]
    scores = {key: round(metrics[key]["value"], 5) for key in SCORES if key in metrics}
    return scores | {f"pass_at_1_ci_{end}": round(metrics["pass_at_1"][f"ci_{end}"], 5) for end in ("low", "high")}
