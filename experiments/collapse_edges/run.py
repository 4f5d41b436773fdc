"""Where does each objective collapse, and what does it reach before? Every member over its strength and learning rates.

    python experiments/collapse_edges/run.py --quick        # a quarter of an hour: few members, one seed
    python experiments/collapse_edges/run.py                # all of it: hours, in the order of what is missing
    python experiments/collapse_edges/run.py --report       # tables and map from what is there

All runs start from the SFT checkpoint of their seed and take the same number of steps on the same data. Each is a
separate process, as a user would start it; what is finished is not repeated, so the command goes on after a kill.
Settings are chosen on development problems; scores are of fresh problems. Writes results.json, one row a run, beside
this file, and map.png.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from redi_lab.callbacks.collapse_rule import CollapseState
from redi_lab.run.screen import progress_bar
from redi_lab.tracking.journal import read_curves

HERE = Path(__file__).parent
RESULTS = HERE / "results.json"
RATES = (1e-4, 2e-4, 4e-4)
SEEDS = (101, 102, 103)
ALPHAS = (0.3, 0.6, 0.8, 1.0)


class Member(NamedTuple):
    """An objective, the setting that says how hard it pushes, and the values tried; weak ones first."""

    key: str | None
    values: tuple[float, ...] = (1.0,)


MEMBERS = {
    "redi": Member("alpha", ALPHAS),
    "bounded_redi": Member("alpha", ALPHAS),
    "gated_redi": Member("alpha", ALPHAS),
    "hinge": Member("alpha", ALPHAS),
    "topr": Member("alpha", ALPHAS),
    "npo": Member("alpha", ALPHAS),
    "simper": Member(None),
    "nca": Member("beta", (0.03, 0.1, 0.3, 1.0)),
    "simpo": Member("beta", (2.0, 5.0, 10.0, 20.0)),
    "dpo": Member("beta", (0.1, 0.3, 1.0, 3.0)),
    "dpo_shift": Member("alpha", ALPHAS),
    "rpo": Member("nll_weight", (3.0, 1.0, 0.3, 0.1)),
    "dpop": Member("penalty", (50.0, 5.0, 1.0, 0.1)),
    "cal_dpo": Member("beta", (0.03, 0.1, 0.3, 1.0)),
    "asymre": Member("baseline", (0.2, 0.35, 0.45, 0.5)),
    "w_reinforce": Member("positive_weight", (1.0, 0.5, 0.1, 0.0)),
}
QUICK = ("redi", "bounded_redi", "npo", "simper", "dpo")


class Point(NamedTuple):
    """One training."""

    member: str
    value: float
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder and row."""
        return f"{self.member}_{self.value:g}_lr{self.rate:g}_s{self.seed}"

    def overrides(self) -> list[str]:
        """Of the command that trains it."""
        key = MEMBERS[self.member].key
        strength = [] if key is None else [f"loss.{key}={self.value}"]
        fixed = ["+experiment=demo_sft_continued", f"loss={self.member}", "name=collapse_edges", f"seed={self.seed}"]
        return [*fixed, *strength, f"optimizer.lr={self.rate}", "callbacks.collapse.action=warn", "logger=none"]


def main() -> None:
    """Run what is missing, then tabulate what is there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="one seed, one rate, five members")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--outputs", type=Path, default=Path("outputs/collapse_edges"))
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    rows = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    missing = [point for point in points(arguments.quick) if point.name not in rows]
    if not arguments.report and missing:
        run_all(missing, rows, arguments.outputs.absolute(), arguments.workers)
    from report import write_report

    print(write_report(rows, HERE))


def points(is_quick: bool) -> Iterator[Point]:
    """All trainings, seed by seed, so that a study cut short has whole columns."""
    for seed in SEEDS[: 1 if is_quick else None]:
        for rate in RATES[1:2] if is_quick else RATES:
            for member in QUICK if is_quick else MEMBERS:
                for value in MEMBERS[member].values:
                    yield Point(member, value, rate, seed)


def run_all(missing: list[Point], rows: dict[str, Any], outputs: Path, workers: int) -> None:
    """Train what is missing, `workers` at a time, and keep each row as it comes; the SFT of each seed comes first."""
    for seed in sorted({point.seed for point in missing}):
        command(["+experiment=demo_sft", f"seed={seed}", "logger=none", "eval=none"], outputs, outputs / f"sft_s{seed}")
    with progress_bar() as progress, ThreadPoolExecutor(workers) as pool:
        task = progress.add_task("trainings", total=len(missing))
        for point, row in zip(missing, pool.map(lambda p: train(p, outputs), missing), strict=True):
            rows[point.name] = point._asdict() | row
            RESULTS.write_text(json.dumps(rows, indent=0, sort_keys=True) + "\n", encoding="utf-8")
            progress.advance(task)


def train(point: Point, outputs: Path) -> dict[str, Any]:
    """Train and evaluate once; what the report needs of it."""
    folder = outputs / "runs" / point.name
    if not (folder / "summary.json").exists():
        command(point.overrides(), outputs, folder)
    return read_row(folder)


def command(overrides: list[str], outputs: Path, folder: Path) -> None:
    """One run of the lab, on one core."""
    if (folder / "summary.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, "-m", "redi_lab", *overrides, f"paths.outputs_dir={outputs}", f"paths.output_dir={folder}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (folder / "screen.txt").open("w", encoding="utf-8") as screen:
        subprocess.run(line, check=True, env=environment, stdout=screen, stderr=subprocess.STDOUT)


def read_row(folder: Path) -> dict[str, Any]:
    """Scores of the last stage, its last curves, and whether the rule saw a collapse at any step."""
    metrics = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["metrics"]
    curves = read_curves(folder / "metrics.jsonl")
    return {
        **{name: metrics[name]["value"] for name in ("pass_at_1", "pass_at_4", "haste") if name in metrics},
        **{name: curves[f"train/mean_logps/{name}"].values[-1] for name in ("chosen", "rejected")},
        "development": curves["val/pass_at_1"].values[-1],
        "collapsed": max(curves["collapse/state"].values) >= CollapseState.COLLAPSED,
    }


if __name__ == "__main__":
    main()
