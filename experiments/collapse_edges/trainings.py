"""One training or evaluation of the study, in this process, and what is kept of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from experiments.collapse_edges.plan import Point

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000", "THP_MEM_ALLOC_ENABLE": "1"}
"""Of worker processes, as redi_lab.cli sets it; before they import torch."""
COMMON = ("logger=none", "trainer.accelerator=cpu")
SFT = (
    "+experiment=demo_sft",
    "eval=none",
    *(f"callbacks.{name}=null" for name in ("accuracy", "probes", "gradient_conflict", "collapse")),
)
MEASURED = (
    "name=collapse_edges",
    "eval=none",
    "callbacks.collapse.action=warn",
    "callbacks.gradient_conflict=null",
    "callbacks.accuracy.every_n_steps=40",
    "callbacks.accuracy.num_samples=4",  # of each of the 100 development problems
)
SCORES = ("pass_at_1", "pass_at_4", "greedy_pass_at_1", "haste", "columns")


def be_quiet(outputs: Path) -> None:
    """Send what this process prints to its own file, since several run at once."""
    outputs.mkdir(parents=True, exist_ok=True)
    file = os.open(outputs / f"worker_{os.getpid()}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)


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


def read_row(folder: Path) -> dict[str, Any]:
    """What is kept of a training.

    Returns:
        accuracy on development problems from the start to the end; mean log-probs of the held-back chosen and rejected
        probes at both; the worst state the collapse rule saw, and the step of a collapse; what stopped the training.
    """
    from redi_lab.callbacks.collapse_rule import CollapseState
    from redi_lab.tracking.journal import read_curves

    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    curves = read_curves(folder / "metrics.jsonl")
    states = curves["collapse/state"]
    worst = CollapseState(int(max(states.values)))
    first = next(step for step, state in zip(states.steps, states.values, strict=True) if state == worst)
    probes = {side: curves[f"probe/{side}_mean_logps"].values for side in ("chosen", "rejected")}
    return {
        "steps": curves["train/loss"].steps[-1] + 1,
        "accuracy": curves["val/pass_at_1"].values,
        **{f"{side}_logp": [round(values[0], 4), round(values[-1], 4)] for side, values in probes.items()},
        "state": worst.name.lower(),
        "state_step": first,
        "stopped": summary["stopped"] and summary["stopped"]["reason"],
        "seconds": summary["seconds"],
    }


def evaluate(outputs: Path, checkpoint: Path, name: str, seed: int) -> dict[str, float]:
    """Score a checkpoint on the 600 held-out problems, which neither training nor development saw."""
    from redi_lab.config.compose import load_config
    from redi_lab.verbs.evaluate.command import run_evaluation

    folder = outputs / "fresh" / name
    if not (folder / "summary.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        overrides = [f"checkpoint={checkpoint}", f"seed={seed}", COMMON[0], *places(outputs, folder)]
        run_evaluation(load_config("evaluate", overrides), overrides)
    metrics = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["metrics"]
    scores = {key: round(metrics[key]["value"], 5) for key in SCORES if key in metrics}
    return scores | {f"pass_at_1_ci_{end}": round(metrics["pass_at_1"][f"ci_{end}"], 5) for end in ("low", "high")}


def train_once(folder: Path, outputs: Path, overrides: list[str]) -> None:
    """Train into a folder, unless its summary is there."""
    from redi_lab.config.compose import load_config
    from redi_lab.verbs.train.command import run_training

    if not (folder / "summary.json").exists():
        shutil.rmtree(folder, ignore_errors=True)  # an attempt that did not finish
        command = [*overrides, *COMMON, *places(outputs, folder)]
        run_training(load_config("train", command), command)


def places(outputs: Path, folder: Path) -> list[str]:
    """Where a command writes."""
    return [f"paths.outputs_dir={outputs}", f"paths.output_dir={folder}"]
