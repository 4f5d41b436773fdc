"""What the studies of trainings share: one training or none if it is there, what is kept of it, and the file of rows.

results = Results(Path("results.json"))
train_once(folder, outputs, ["loss=redi", *MEASURED])
results.content["runs"]["redi"] = read_row(folder)
results.save()
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from redi_lab.data.traces import Pair

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000", "THP_MEM_ALLOC_ENABLE": "1"}
"""Of worker processes, as redi_lab.cli sets it; before they import torch."""
COMMON = ("logger=none", "trainer.accelerator=cpu")
SFT = (
    "+experiment=demo_sft",
    "eval=none",
    *(f"callbacks.{name}=null" for name in ("accuracy", "probes", "gradient_conflict", "collapse")),
)
ON_ROWS = (
    "data=jsonl",
    "data.source.num_heldout=0",
    "data.num_development=0",
    "data.prompt_template='{problem}'",
    "data.max_new_tokens=96",
    "eval=none",
    "callbacks.gradient_conflict=null",
    "callbacks.accuracy=null",
    "callbacks.probes=null",
)
"""Of a training on a study's own rows, data.path=FILE, that is evaluated afterwards."""
MEASURED = (
    "name=study",
    "eval=none",
    "callbacks.collapse.action=warn",
    "callbacks.gradient_conflict=null",
    "callbacks.accuracy.every_n_steps=40",
    "callbacks.accuracy.num_samples=4",  # of each of the 100 development problems
)


def arguments_of(description: str, name: str) -> argparse.ArgumentParser:
    """The options of every study: report alone, worker processes, folder of the runs, file of the rows."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--outputs", type=Path, default=Path("outputs") / name, help="folders of the runs")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / name / "results.json")
    return parser


class Results:
    """The content of results.json: the rows of trainings by point, and the scores of the starts by seed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, dict[str, Any]] = {"starts": {}, "runs": {}}
        if path.exists():
            self.content = json.loads(path.read_text(encoding="utf-8"))

    def save(self) -> None:
        """Replace the file, whole or not at all: one line a row."""
        from redi_lab.files import write_text

        parts = []
        for part, rows in self.content.items():
            lines = (f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in sorted(rows.items()))
            parts.append(f" {json.dumps(part)}: {{\n" + ",\n".join(lines) + "\n }")
        write_text(self.path, "{\n" + ",\n".join(parts) + "\n}\n")


def be_quiet(outputs: Path) -> None:
    """Send what this process prints to its own file, since several run at once."""
    outputs.mkdir(parents=True, exist_ok=True)
    file = os.open(outputs / f"worker_{os.getpid()}.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1)
    os.dup2(file, 2)


def train_once(folder: Path, outputs: Path, overrides: list[str]) -> None:
    """Train into a folder, unless its summary is there."""
    from redi_lab.config.compose import load_config
    from redi_lab.verbs.train.command import run_training

    if not (folder / "summary.json").exists():
        shutil.rmtree(folder, ignore_errors=True)  # an attempt that did not finish
        command = [*overrides, *COMMON, *places(outputs, folder)]
        run_training(load_config("train", command), command)


def command(folder: Path, outputs: Path, overrides: Sequence[str]) -> dict[str, Any]:
    """The summary of a command of the lab, in a process as a user would start it, unless its summary is there."""
    summary = folder / "summary.json"
    if not summary.exists():
        subprocess.run([sys.executable, "-m", "redi_lab", *overrides, *places(outputs, folder)], check=True)
    content: dict[str, Any] = json.loads(summary.read_text(encoding="utf-8"))
    return content


def places(outputs: Path, folder: Path) -> list[str]:
    """Where a command writes."""
    return [f"paths.outputs_dir={outputs}", f"paths.output_dir={folder}"]


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


def write_pairs(file: Path, pairs: Iterable[Pair]) -> None:
    """Pairs of an embedded task for data=jsonl, as problems with two generations each."""
    rows = []
    for pair in pairs:
        generations = [{"text": pair.chosen, "correct": True}, {"text": pair.rejected, "correct": False}]
        answer = re.findall(r"\d+", pair.chosen)[-1]
        rows.append({"id": pair.id, "problem": pair.problem, "answer": answer, "generations": generations})
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
