"""Which form of objective moves the edge of collapse, and at what cost? Trains what is missing, then tabulates.

    python -m experiments.collapse_edges.run --quick         # four members, one rate, one seed: a quarter of an hour
    python -m experiments.collapse_edges.run                 # all of it: hours
    python -m experiments.collapse_edges.run --minutes 60    # start no training after an hour
    python -m experiments.collapse_edges.run --report        # tables and map from the rows that are there

Every finished training is a row of results.json, so that the command goes on where it was stopped; a kill costs the
trainings under way. plan.py says what is trained and in what order; report.py writes tables.md and map.png beside
results.json. Settings are chosen on development problems; scores are of fresh ones, at the chosen points alone.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from experiments.collapse_edges import trainings
from experiments.collapse_edges.plan import FULL, QUICK, Scope, chosen, next_points

HERE = Path(__file__).parent


def main() -> None:
    """Run what is missing, then tabulate what is there."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="four members, one rate, one seed")
    parser.add_argument("--report", action="store_true", help="run nothing")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no training after this time")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--outputs", type=Path, default=Path("outputs/collapse_edges"), help="folders of the runs")
    parser.add_argument("--results", type=Path, default=HERE / "results.json")
    arguments = parser.parse_args()
    results = Results(arguments.results)
    if not arguments.report:
        scope = QUICK if arguments.quick else FULL
        run(scope, results, arguments.outputs.absolute(), arguments.workers, time.monotonic() + 60 * arguments.minutes)
    from experiments.collapse_edges.report import write_report

    print(write_report(FULL, results.content, results.path.parent))


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


def run(scope: Scope, results: Results, outputs: Path, workers: int, deadline: float) -> None:
    """Train until nothing is missing or the time is over, then evaluate the chosen points."""
    os.environ.update(trainings.ENVIRONMENT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves the pool, which waits for what is under way
    runs = results.content["runs"]
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawned, trainings.be_quiet, (outputs,)) as pool:
        while (missing := next_points(scope, runs)) and time.monotonic() < deadline:
            now = missing[:workers]
            list(pool.map(functools.partial(trainings.train_start, outputs), sorted({point.seed for point in now})))
            for point, row in zip(now, pool.map(functools.partial(trainings.train, outputs), now), strict=True):
                runs[point.name] = row
                print(f"{point.name}: {row['state']}, {row['accuracy'][-1]:.3f} on development problems", flush=True)
            results.save()
        evaluate(scope, results, outputs, pool)


def evaluate(scope: Scope, results: Results, outputs: Path, pool: ProcessPoolExecutor) -> None:
    """Score on fresh problems the starts and each axis's chosen point, where that is not done."""
    runs, starts = results.content["runs"], results.content["starts"]
    for seed in sorted({row["seed"] for row in runs.values()} - set(map(int, starts))):
        checkpoint = trainings.start_folder(outputs, seed)
        starts[str(seed)] = pool.submit(trainings.evaluate, outputs, checkpoint, f"sft_s{seed}", seed).result()
    points = {point.name: point for axis in scope.axes for point in chosen(axis, scope, runs)}
    left = [name for name in points if "fresh" not in runs[name]]
    folders = [outputs / "runs" / name / "checkpoints" / "last" for name in left]
    seeds = [points[name].seed for name in left]
    scored = pool.map(functools.partial(trainings.evaluate, outputs), folders, left, seeds)
    for name, scores in zip(left, scored, strict=True):
        runs[name]["fresh"] = scores
        results.save()


if __name__ == "__main__":
    main()
