"""What does each objective do to the embedded student? Train every arm on several seeds and tabulate five measures.

    python experiments/embedded_story/run.py --seeds 42 43 44 45 46 47
    python experiments/embedded_story/run.py --seeds 42 --arms alpha05 alpha08    # some of them

Each run is a separate process, as a user would start it, and what is finished is not repeated, so the command goes on
after a kill. SFT is trained once a seed. Reads the runs' summary.json, writes results.json and, from the first seed,
the curves; prints the tables of the README.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from redi_lab.evaluation.metrics import t_quantile
from redi_lab.figures.curves import plot_curves

Scores = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Arm → seed → measure → value."""

SFT = "sft"
ARMS = {  # those that decide the demo's setting come first
    "alpha05": ("REDI α=0.5, lr 2e-4", ["+experiment=demo"]),
    "alpha08": ("REDI α=0.8, lr 2e-4", ["+experiment=demo", "loss.alpha=0.8"]),
    "alpha0": ("SFT continued (α=0), lr 2e-4", ["+experiment=demo_sft_continued"]),
    "symmetric": ("symmetric REDI (α=1), lr 2e-4", ["+experiment=demo_symmetric"]),
    "dpo": ("DPO β=1, lr 1e-4", ["+experiment=demo_dpo"]),
    "simpo": ("SimPO β=10 γ=1, lr 1e-4", ["+experiment=demo_simpo"]),
}
TITLES = {SFT: "SFT, 5 epochs"} | {arm: title for arm, (title, _) in ARMS.items()}
MEASURES = {
    "pass_at_1": "pass@1",
    "pass_at_4": "pass@4",
    "greedy_pass_at_1": "greedy",
    "haste": "haste",
    "columns": "columns",
}
CURVES = ("alpha0", "alpha05", "alpha08", "symmetric")
HERE = Path(__file__).parent


def main() -> None:
    """Run what is missing, then tabulate what is there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 43, 44, 45, 46, 47])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--outputs", type=Path, default=Path("outputs/embedded_story"))
    parser.add_argument("--curves", type=Path, default=Path("docs/demo-curves.png"))
    arguments = parser.parse_args()
    outputs: Path = arguments.outputs.absolute()
    for arm in arguments.arms:
        for seed in arguments.seeds:
            train(arm, seed, outputs)
    scores = read_scores(outputs / "runs")
    (HERE / "results.json").write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    print("\n".join([*table(scores), "", *table(scores, against=SFT)]))
    metrics = {TITLES[arm]: outputs / "runs" / f"{arm}_seed{arguments.seeds[0]}" / "metrics.jsonl" for arm in CURVES}
    print(plot_curves({title: path for title, path in metrics.items() if path.exists()}, arguments.curves))


def train(arm: str, seed: int, outputs: Path) -> None:
    """Train and evaluate one arm on one seed, unless its summary is there."""
    folder = outputs / "runs" / f"{arm}_seed{seed}"
    if not (folder / "summary.json").exists():
        command = [sys.executable, "-m", "redi_lab", *ARMS[arm][1], f"seed={seed}"]
        subprocess.run([*command, f"paths.outputs_dir={outputs}", f"paths.output_dir={folder}"], check=True)


def read_scores(folder: Path) -> dict[str, dict[int, dict[str, float]]]:
    """The measures of all finished runs; SFT is the first stage of any."""
    scores: dict[str, dict[int, dict[str, float]]] = {arm: {} for arm in TITLES}
    for arm in ARMS:
        for path in sorted(folder.glob(f"{arm}_seed*/summary.json")):
            seed = int(path.parent.name.rsplit("_seed", 1)[1])
            first, *_, last = json.loads(path.read_text(encoding="utf-8"))["stages"]
            scores[SFT][seed], scores[arm][seed] = _measures(first["metrics"]), _measures(last["metrics"])
    return scores


def _measures(metrics: Mapping[str, Any]) -> dict[str, float]:
    return {name: metrics[name]["value"] for name in MEASURES if name in metrics}


def table(scores: Scores, against: str | None = None) -> list[str]:
    """Mean and 95 % t-interval over seeds of each measure, or of its difference to another arm on the same seeds."""
    lines = [f"| run | seeds | {' | '.join(MEASURES.values())} |", "|---|---:|" + "---:|" * len(MEASURES)]
    for arm, by_seed in scores.items():
        if by_seed and arm != against:
            cells = [_cell(by_seed, None if against is None else scores[against], name) for name in MEASURES]
            lines.append(f"| {TITLES[arm]} | {len(by_seed)} | {' | '.join(cells)} |")
    return lines


def _cell(by_seed: Mapping[int, Mapping[str, float]], base: Mapping[int, Mapping[str, float]] | None, name: str) -> str:
    values = [
        measures[name] - (0.0 if base is None else base[seed][name])
        for seed, measures in by_seed.items()
        if name in measures and (base is None or name in base[seed])
    ]
    return interval(values, "" if base is None else "+") if values else "–"


def interval(values: Sequence[float], sign: str = "") -> str:
    """Mean ± half of the 95 % t-interval over seeds; without interval for a single one."""
    mean = f"{statistics.mean(values):{sign}.3f}".replace("-", "−")
    if len(values) < 2:
        return mean
    return f"{mean} ± {t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values)):.3f}"


if __name__ == "__main__":
    main()
