"""Does the embedded task show the paper's story? Run every demo experiment for several seeds and tabulate.

    python experiments/embedded_story/run.py --seeds 42 43 44 --outputs outputs/embedded_story

Each run is a separate process, as a user would start it; numbers are read from the runs' summary.json, and runs that
are already there are not repeated. SFT is trained once per seed. Writes results.json and prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from redi_lab.evaluation.metrics import t_quantile

RUNS = {
    "demo": ("REDI α=0.8, lr 2e-4", ["+experiment=demo"]),
    "demo_sft_continued": ("SFT continued (α=0), lr 2e-4", ["+experiment=demo_sft_continued"]),
    "demo_symmetric": ("symmetric REDI (α=1), lr 2e-4", ["+experiment=demo_symmetric"]),
    "demo_alpha05": ("REDI α=0.5, lr 3e-4", ["+experiment=demo", "loss.alpha=0.5", "optimizer.lr=3e-4"]),
    "demo_dpo": ("DPO β=1, lr 1e-4", ["+experiment=demo_dpo"]),
    "demo_simpo": ("SimPO β=10 γ=1, lr 1e-4", ["+experiment=demo_simpo"]),
}


def main() -> None:
    """Run what is missing, then tabulate."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44])
    parser.add_argument("--outputs", type=Path, default=Path("outputs/embedded_story"))
    arguments = parser.parse_args()
    outputs: Path = arguments.outputs.absolute()
    scores: dict[str, list[float]] = {"demo_sft": []} | {name: [] for name in RUNS}
    rows: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for name, (_, overrides) in RUNS.items():
            folder = outputs / "runs" / f"{name}_seed{seed}"
            if not (folder / "summary.json").exists():
                command = [sys.executable, "-m", "redi_lab", *overrides, f"seed={seed}"]
                command += [f"paths.outputs_dir={outputs}", f"paths.output_dir={folder}"]
                subprocess.run(command, check=True)
            stages = json.loads((folder / "summary.json").read_text())["stages"]
            if name == "demo":
                scores["demo_sft"].append(stages[0]["metrics"]["pass_at_1"]["value"])
            metrics = stages[-1]["metrics"]
            scores[name].append(metrics["pass_at_1"]["value"])
            rows.append({"experiment": name, "seed": seed, "metrics": metrics})
    (outputs / "results.json").write_text(json.dumps({"scores": scores, "runs": rows}, indent=2) + "\n")
    print(table(scores, arguments.seeds))


def table(scores: dict[str, list[float]], seeds: list[int]) -> str:
    """pass@1 of each seed, the mean, and the paired difference to SFT with a 95 % t-interval over seeds."""
    lines = [f"| run | {' | '.join(f'seed {s}' for s in seeds)} | mean | difference to SFT (95 % CI over seeds) |"]
    lines.append("|---|" + "---:|" * (len(seeds) + 2))
    for name, values in scores.items():
        title = "SFT, 5 epochs" if name == "demo_sft" else RUNS[name][0]
        gains = [value - base for value, base in zip(values, scores["demo_sft"], strict=True)]
        cells = " | ".join(f"{value:.3f}" for value in values)
        lines.append(f"| {title} | {cells} | {statistics.mean(values):.3f} | {_interval(gains, name)} |")
    return "\n".join(lines)


def _interval(gains: list[float], name: str) -> str:
    if name == "demo_sft":
        return "–"
    if len(gains) < 2:
        return f"{gains[0]:+.3f}"
    half = t_quantile(len(gains) - 1) * statistics.stdev(gains) / math.sqrt(len(gains))
    return f"{statistics.mean(gains):+.3f} ± {half:.3f}"


if __name__ == "__main__":
    main()
