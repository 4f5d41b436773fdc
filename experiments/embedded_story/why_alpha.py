"""Why α has an edge: the stationary share of haste as a function of α, what trained models do, and what it costs.

    python experiments/embedded_story/why_alpha.py --figure docs/why-alpha.png

In a context where a choice has frequency f_w in positives and f_l in negatives, the REDI loss is stationary at
p = (f_w − α·f_l)/(1 − α). The points come from the results.json of run.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from redi_lab.data.arithmetic import ArithmeticSource
from redi_lab.data.teacher import describe_work

ALPHAS = {"alpha0": 0.0, "alpha05": 0.5, "alpha08": 0.8, "symmetric": 1.0}
SHOWN = {
    "pass_at_1": ("pass@1, T = 0.6", "#0072B2"),
    "greedy_pass_at_1": ("pass@1, greedy", "#009E73"),
    "columns": ("columns: additions by columns", "#D55E00"),
}
Results = Mapping[str, Mapping[str, Mapping[str, float]]]
"""Arm → seed → measure → value."""


def main() -> None:
    """Draw the figure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--figure", type=Path, default=Path("docs/why-alpha.png"))
    arguments = parser.parse_args()
    results: Results = json.loads((Path(__file__).parent / "results.json").read_text(encoding="utf-8"))
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_haste(left, results)
    draw_scores(right, results)
    figure.savefig(arguments.figure, dpi=110)
    print(f"figure: {arguments.figure}")


def draw_haste(ax: Any, results: Results) -> None:
    """The stationary share of haste, and what each trained model does: a point a seed."""
    pairs = ArithmeticSource(seed=42).load().pairs
    f_w = describe_work([pair.chosen for pair in pairs])["haste"]
    f_l = describe_work([pair.rejected for pair in pairs])["haste"]
    edge = f_w / f_l
    alpha = np.linspace(0, edge, 200)
    ax.plot(alpha, (f_w - alpha * f_l) / (1 - alpha), color="#0072B2", label="stationary point of the loss")
    ax.axvspan(edge, 1.05, color="#D55E00", alpha=0.12, label=f"α > f_w/f_l = {edge:.2f}: pushed down without bound")
    for arm, place in ALPHAS.items():
        shares = [measures["haste"] for measures in results[arm].values()]
        ax.plot([place] * len(shares), shares, "o", color="black", markersize=4, alpha=0.5)
    ax.set(xlabel="α", ylabel="share of answers with haste", xlim=(-0.05, 1.05), ylim=(-0.03, 1))
    ax.set_title(f"Haste: f_w = {f_w:.2f} in chosen, f_l = {f_l:.2f} in rejected traces", fontsize=10)
    ax.legend(loc="upper right", fontsize=8)
    print(f"f_w = {f_w:.3f}, f_l = {f_l:.3f}, f_w/f_l = {edge:.3f}")


def draw_scores(ax: Any, results: Results) -> None:
    """Right answers, and right additions by columns: a point a seed, a line through the means."""
    for shift, (name, (label, colour)) in enumerate(SHOWN.items()):
        means = []
        for arm, place in ALPHAS.items():
            values = [measures[name] for measures in results[arm].values()]
            ax.plot([place + 0.015 * (shift - 1)] * len(values), values, "o", color=colour, markersize=4, alpha=0.5)
            means.append(np.mean(values))
        ax.plot(list(ALPHAS.values()), means, color=colour, label=label)
    ax.set(xlabel="α", ylabel="share right", xlim=(-0.05, 1.05), ylim=(-0.03, 1.03))
    ax.set_title("What it costs", fontsize=10)
    ax.legend(loc="lower center", fontsize=8)


if __name__ == "__main__":
    main()
