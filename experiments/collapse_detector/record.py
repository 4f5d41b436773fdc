"""Record the stage-2 runs on which the collapse rule is tuned and tested: their curves, and accuracy to label them by.

    python experiments/collapse_detector/record.py --outputs outputs/collapse_detector --seeds 101 102 103 104 105 106

Every seed has its own problems, traces, student and order. All runs of a seed start from one SFT checkpoint, which is
trained once. Runs that are already there are not repeated, so the command can be interrupted and given again. About
half a minute a run on one core.
"""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path

RUNS: dict[str, tuple[str, ...]] = {
    f"{name}_lr{rate}": (*arguments, f"optimizer.lr={rate}")
    for name, arguments, rates in (
        ("redi_a0.5", ("loss=redi", "loss.alpha=0.5"), ("3e-4",)),
        ("redi_a0.8", ("loss=redi", "loss.alpha=0.8"), ("1e-4", "2e-4", "5e-4")),
        ("redi_a0.9", ("loss=redi", "loss.alpha=0.9"), ("2e-4",)),
        ("symmetric", ("loss=symmetric_redi",), ("5e-5", "1e-4", "2e-4")),
        ("dpo_b0.1", ("loss=dpo", "loss.beta=0.1"), ("1e-4", "5e-4")),
        ("simpo_b10", ("loss=simpo", "loss.beta=10"), ("1e-4", "5e-4")),
    )
    for rate in rates
}
"""The grid: name to overrides. Rates from where nothing happens to where the objective collapses."""

MEASURING = (
    "eval=none",
    "logger=none",
    "trainer.accelerator=cpu",
    "data.num_development=100",
    "callbacks.accuracy.every_n_steps=10",
    "callbacks.accuracy.temperature=0",
    "callbacks.probes.every_n_steps=5",
    "callbacks.gradient_conflict=null",
    "init_overrides=['callbacks.accuracy=null','callbacks.probes=null','callbacks.gradient_conflict=null']",
)


def main() -> None:
    """Record what is missing."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--outputs", type=Path, default=Path("outputs/collapse_detector"))
    parser.add_argument("--seeds", type=int, nargs="+", required=True)
    arguments = parser.parse_args()
    for seed in arguments.seeds:
        for name, overrides in RUNS.items():
            record(arguments.outputs.absolute(), name, seed, overrides)


def record(outputs: Path, name: str, seed: int, overrides: tuple[str, ...]) -> None:
    """One run, in this process: a new one would import for longer than it trains."""
    from redi_lab.config.compose import load_config
    from redi_lab.verbs.train.command import run_training

    folder = outputs / "runs" / f"{name}_seed{seed}"
    if (folder / "summary.json").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)  # an attempt that did not finish
    places = (f"paths.outputs_dir={outputs}", f"paths.output_dir={folder}", f"seed={seed}")
    command = ["+experiment=demo", *overrides, *MEASURING, *places]
    run_training(load_config("train", command), command)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
