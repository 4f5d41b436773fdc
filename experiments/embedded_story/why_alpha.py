"""Why α has an edge: the stationary share of haste as a function of α, what trained models do, and what it costs.

    python experiments/embedded_story/why_alpha.py --outputs outputs/embedded_story --figure docs/why-alpha.png

In a context where a choice has frequency f_w in positives and f_l in negatives, the REDI loss is stationary at
p = (f_w − α·f_l)/(1 − α). Reads the runs and the results.json of run.py.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from redi_lab.data.arithmetic import HASTE, ArithmeticSource

ALPHAS = {"alpha0": 0.0, "alpha05": 0.5, "alpha08": 0.8, "symmetric": 1.0}
SHOWN = {"pass_at_1": ("pass@1, T = 0.6", "#0072B2"), "greedy_pass_at_1": ("greedy", "#009E73"),
         "columns": ("columns", "#D55E00")}  # fmt: skip


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
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    draw_haste(left, arguments.outputs)
    results = json.loads((Path(__file__).parent / "results.json").read_text(encoding="utf-8"))
    draw_scores(right, results)
    figure.savefig(arguments.figure, dpi=110)
    print(f"figure: {arguments.figure}")


def draw_haste(ax: Any, outputs: Path) -> None:
    """The stationary share of haste, and what each trained model does."""
    pairs = ArithmeticSource(seed=42).load().pairs
    f_w = float(np.mean([is_hasty(pair.chosen) for pair in pairs]))
    f_l = float(np.mean([is_hasty(pair.rejected) for pair in pairs]))
    edge = f_w / f_l
    alpha = np.linspace(0, edge, 200)
    ax.plot(alpha, (f_w - alpha * f_l) / (1 - alpha), color="#0072B2", label="stationary point of the loss")
    ax.axvspan(edge, 1.05, color="#D55E00", alpha=0.12, label=f"α > f_w/f_l = {edge:.2f}: pushed down without bound")
    for arm, place in ALPHAS.items():
        for path in sorted((outputs / "runs").glob(f"{arm}_seed*/summary.json")):
            key = json.loads(path.read_text(encoding="utf-8"))["evaluation"]["key"]
            rows = (outputs / "cache" / "evaluations" / f"{key}.jsonl").read_text(encoding="utf-8").splitlines()
            share = float(np.mean([is_hasty(json.loads(row)["text"]) for row in rows]))
            ax.plot(place, share, "o", color="black", markersize=4, alpha=0.6)
            print(f"{path.parent.name}: share of hasty last steps {share:.3f}")
    ax.set(xlabel="α", ylabel="share of hasty last steps", xlim=(-0.05, 1.05), ylim=(-0.03, 1))
    ax.set_title(f"Haste: f_w = {f_w:.2f} in chosen, f_l = {f_l:.2f} in rejected traces", fontsize=10)
    ax.legend(loc="upper right", fontsize=8)
    print(f"f_w = {f_w:.3f}, f_l = {f_l:.3f}, f_w/f_l = {edge:.3f}")


def draw_scores(ax: Any, results: Mapping[str, Mapping[str, Mapping[str, float]]]) -> None:
    """Accuracy, and what becomes of additions by columns: a point a seed, a line through the means."""
    for shift, (name, (label, colour)) in enumerate(SHOWN.items()):
        by_alpha = {
            alpha: [measures[name] for measures in results[arm].values() if name in measures]
            for arm, alpha in ALPHAS.items()
        }
        places = {alpha: values for alpha, values in by_alpha.items() if values}
        for alpha, values in places.items():
            ax.plot([alpha + 0.012 * (shift - 1)] * len(values), values, "o", color=colour, markersize=4, alpha=0.5)
        ax.plot(list(places), [np.mean(values) for values in places.values()], color=colour, label=label)
    ax.set(xlabel="α", ylabel="share right", xlim=(-0.05, 1.05), ylim=(-0.03, 1.03))
    ax.set_title("Right answers, and right additions by columns", fontsize=10)
    ax.legend(loc="lower left", fontsize=8)


if __name__ == "__main__":
    main()
