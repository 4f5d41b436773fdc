"""Why α has an edge: the stationary share of haste as a function of α, and what trained models do.

    python experiments/embedded_story/why_alpha.py --outputs outputs/embedded_story --figure docs/why-alpha.png

In a context where a choice has frequency f_w in positives and f_l in negatives, the REDI loss is stationary at
p = (f_w − α·f_l)/(1 − α). Points are the share of hasty last steps among the samples of evaluated runs.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from redi_lab.data.arithmetic import HASTE, ArithmeticSource

ALPHAS = {"demo_sft_continued": 0.0, "demo_alpha05": 0.5, "demo": 0.8, "demo_symmetric": 1.0}


def is_hasty(trace: str) -> bool:
    """Whether the last step was done in the head."""
    steps = [line for line in trace.split("\n") if " add " in line]
    return bool(steps) and HASTE in steps[-1]


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--outputs", type=Path, default=Path("outputs/embedded_story"))
    parser.add_argument("--figure", type=Path, default=Path("docs/why-alpha.png"))
    arguments = parser.parse_args()
    pairs = ArithmeticSource(seed=42).load().pairs
    f_w = float(np.mean([is_hasty(pair.chosen) for pair in pairs]))
    f_l = float(np.mean([is_hasty(pair.rejected) for pair in pairs]))
    figure = Figure(figsize=(7, 4), layout="constrained")
    ax = figure.add_subplot()
    edge = f_w / f_l
    alpha = np.linspace(0, edge, 200)
    ax.plot(alpha, (f_w - alpha * f_l) / (1 - alpha), color="#0072B2", label="stationary point of the loss")
    ax.axvspan(edge, 1, color="#D55E00", alpha=0.12, label=f"α > f_w/f_l = {edge:.2f}: pushed down without bound")
    for folder in sorted((arguments.outputs / "runs").iterdir()):
        name = folder.name.rsplit("_seed", 1)[0]
        if name not in ALPHAS:
            continue
        key = json.loads((folder / "summary.json").read_text())["evaluation"]["key"]
        rows = (arguments.outputs / "cache" / "evaluations" / f"{key}.jsonl").read_text().splitlines()
        graded = [json.loads(row) for row in rows]
        share = np.mean([is_hasty(row["text"]) for row in graded])
        accuracy = np.mean([row["verdict"] == "right" for row in graded])
        ax.plot(ALPHAS[name], share, "o", color="black", markersize=4)
        ax.annotate(f"{accuracy:.2f}", (ALPHAS[name], share), textcoords="offset points", xytext=(5, 4), fontsize=7)
        print(f"{folder.name}: share of hasty last steps {share:.3f}, accuracy {accuracy:.3f}")
    ax.set(xlabel="α", ylabel="share of hasty last steps", xlim=(-0.05, 1.09), ylim=(-0.03, 1))
    ax.set_title(f"Haste: f_w = {f_w:.2f} in chosen, f_l = {f_l:.2f} in rejected traces of the pairs", fontsize=10)
    ax.legend(loc="upper right", fontsize=8)
    figure.text(0.01, 0.005, "points: trained runs (T = 0.6), labelled with pass@1", fontsize=7)
    figure.savefig(arguments.figure, dpi=110)
    print(f"f_w = {f_w:.3f}, f_l = {f_l:.3f}, f_w/f_l = {edge:.3f}; figure: {arguments.figure}")


if __name__ == "__main__":
    main()
