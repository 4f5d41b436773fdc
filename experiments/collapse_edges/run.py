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

import functools
import math
import multiprocessing
import os
import signal
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from experiments.collapse_edges import trainings
from experiments.collapse_edges.plan import FULL, QUICK, Scope, chosen, next_points
from experiments.runner import ENVIRONMENT, Results, arguments_of, be_quiet


def main() -> None:
    """Run what is missing, then tabulate what is there."""
    parser = arguments_of(__doc__.split("\n")[0], "collapse_edges")
    parser.add_argument("--quick", action="store_true", help="four members, one rate, one seed")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no training after this time")
    arguments = parser.parse_args()
    results = Results(arguments.results)
    if not arguments.report:
        scope = QUICK if arguments.quick else FULL
        run(scope, results, arguments.outputs.absolute(), arguments.workers, time.monotonic() + 60 * arguments.minutes)
    from experiments.collapse_edges.report import write_report

    print(write_report(FULL, results.content, results.path.parent))


def run(scope: Scope, results: Results, outputs: Path, workers: int, deadline: float) -> None:
    """Train until nothing is missing or the time is over, then evaluate the chosen points."""
    os.environ.update(ENVIRONMENT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves the pool, which waits for what is under way
    runs = results.content["runs"]
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawned, be_quiet, (outputs,)) as pool:
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
