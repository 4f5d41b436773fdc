"""Which objective is best if each is tuned as much? Searches, trains the winners anew, then tabulates.

    python -m experiments.equal_budget.run                    # data=arithmetic: hours, see README.md
    python -m experiments.equal_budget.run --task chains
    python -m experiments.equal_budget.run --quick            # a tiny student, three methods: minutes, and no meaning
    python -m experiments.equal_budget.run --report           # tables and figures of what is there

Killed at any moment, the same command goes on: sweeps keep their trials seed by seed, and each winner's training is a
row of the results once it is done. plan.py says what is trained, report.py writes tables and figures beside the rows.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from experiments.equal_budget.plan import (
    EXPERIMENTS,
    FULL,
    QUICK,
    SFT,
    Method,
    Scope,
    final_overrides,
    finals,
    start_overrides,
    sweep_arguments,
)
from experiments.runner import ENVIRONMENT, Results, arguments_of, be_quiet, train_once

KEPT = ("pass_at_1", "greedy_pass_at_1", "haste", "columns", "mean_tokens")
DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
"""Right samples of a problem as one character."""


def main() -> None:
    """Run what is missing, then tabulate what is there."""
    parser = arguments_of(__doc__.split("\n")[0], "equal_budget")
    parser.add_argument("--task", choices=sorted(EXPERIMENTS), default="arithmetic")
    parser.add_argument("--quick", action="store_true", help="a tiny student: whether it runs, not what is better")
    arguments = parser.parse_args()
    scope, kind = (QUICK, f"{arguments.task}_quick") if arguments.quick else (FULL, arguments.task)
    outputs = arguments.outputs.absolute() / kind
    folder = outputs if arguments.quick else arguments.results.parent  # nobody wants the quick form's in the repository
    results = Results(folder / f"results_{kind}.json")
    results.content.setdefault("trials", {})
    if not arguments.report:
        run(arguments.task, scope, results, outputs, arguments.workers)
    from experiments.equal_budget.report import write_report

    print(write_report(scope, results.content, folder, kind))


def run(task: str, scope: Scope, results: Results, outputs: Path, workers: int) -> None:
    """Search with each method, then train the winners on fresh seeds."""
    os.environ.update(ENVIRONMENT)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leaves the pool, which waits for what is under way
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawned, be_quiet, (outputs,)) as pool:
        train_starts(task, scope, outputs, pool)
    winners = {}
    for method in scope.methods:
        trials = search(task, method, scope, outputs, workers)
        results.content["trials"] |= {f"{method.name}/{row['trial']:02d}": row for row in trials}
        results.save()
        winners[method.name] = winner(trials)
        print(f"{method.title}: {winners[method.name]['score']:.3f} at {winners[method.name]['values']}", flush=True)
    with ProcessPoolExecutor(workers, spawned, be_quiet, (outputs,)) as pool:
        train_winners(task, scope, winners, results, outputs, pool)


def search(task: str, method: Method, scope: Scope, outputs: Path, workers: int) -> list[dict[str, Any]]:
    """The trials of a method, which are run as far as they are not there."""
    from redi_lab.verbs.sweep.driver import compose_sweep, run_sweep
    from redi_lab.verbs.sweep.results import view_trials
    from redi_lab.verbs.sweep.study import open_study

    arguments = [*sweep_arguments(task, method, scope), "logger=none", f"paths.outputs_dir={outputs}"]
    arguments.append(f"sweep.num_workers={workers}")
    run_sweep(arguments)
    study = open_study(compose_sweep(arguments)[1])
    runs = {trial.number: trial.user_attrs["runs"] for trial in study.trials if trial.user_attrs.get("runs")}
    done = sorted((view for view in view_trials(study) if view.outcome == "finished"), key=lambda view: view.number)
    return [
        {
            "method": method.name,
            "trial": number,
            "values": dict(view.values),
            "score": view.value,
            "by_seed": list(view.by_seed),
            **_means([run["details"]["metrics"] for run in runs[view.number]]),
            "stopped": [run["reason"] for run in runs[view.number] if run["stopped_by"]],
            "seconds": view.seconds,
        }
        for number, view in enumerate(done)
    ]


def _means(metrics: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """What the evaluations of a trial's seeds have in common, averaged."""
    return {key: sum(one[key]["value"] for one in metrics) / len(metrics) for key in KEPT if key in metrics[0]}


def winner(trials: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The trial with the highest score; the first of equals."""
    return max(trials, key=lambda row: (row["score"], -row["trial"]))


def train_starts(task: str, scope: Scope, outputs: Path, pool: ProcessPoolExecutor) -> None:
    """Train the SFT of every seed: else all workers would wait for that of the first."""
    seeds = (*scope.tuning_seeds, *scope.final_seeds)
    list(pool.map(functools.partial(train_start, task, scope, outputs), seeds))


def train_start(task: str, scope: Scope, outputs: Path, seed: int) -> None:
    """Train one, unless it is there; the trainings that start from it find it by its fingerprint."""
    train_once(outputs / "starts" / str(seed), outputs, start_overrides(task, seed, scope))


def train_winners(
    task: str,
    scope: Scope,
    winners: Mapping[str, Mapping[str, Any]],
    results: Results,
    outputs: Path,
    pool: ProcessPoolExecutor,
) -> None:
    """Train every winner on every fresh seed, as far as that is not done."""
    runs, starts = results.content["runs"], results.content["starts"]
    train, waiting = functools.partial(train_winner, task, scope, outputs), {}
    for method, seed in finals(scope):
        name, values = f"{method.name}_s{seed}", winners[method.name]["values"]
        if name not in runs or runs[name]["values"] != values:
            waiting[pool.submit(train, method, values, seed)] = name
    for future in as_completed(waiting):
        row, start = future.result()
        runs[waiting[future]], starts[str(row["seed"])] = row, start
        print(f"{waiting[future]}: {row['last']['pass_at_1']:.3f}, best {row['best']['pass_at_1']:.3f}", flush=True)
        results.save()


def train_winner(
    task: str, scope: Scope, outputs: Path, method: Method, values: dict[str, float], seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Train and evaluate, in this process; the row of the run, and that of the SFT that it starts from."""
    from redi_lab.evaluation.results import content_digest
    from redi_lab.run.record import read_summary

    folder = outputs / "finals" / f"{method.name}_s{seed}_{content_digest(values)[:8]}"
    train_once(folder, outputs, final_overrides(task, method, values, seed, scope))
    summary = read_summary(folder)
    cache = outputs / "cache" / "evaluations"
    start, (last, best) = summary["stages"][0], (summary["stages"][-1], summary["best"])
    row = {
        "method": method.name,
        "seed": seed,
        "values": values,
        "last": scores(last, cache),
        "best": scores(best, cache) | {"step": best["chosen"]["step"]},
        "seconds": summary["seconds"],
    }
    return row, {"method": SFT, "seed": seed, "last": scores(start, cache)}


def scores(evaluated: Mapping[str, Any], cache: Path) -> dict[str, Any]:
    """Metrics of an evaluation, and how many samples of each problem were right."""
    from redi_lab.evaluation.results import load_result
    from redi_lab.evaluation.scoring import verdicts_of

    result = load_result(cache, evaluated["evaluation_key"])
    assert result is not None
    right = verdicts_of(result).sum(axis=1)
    metrics = {key: evaluated["metrics"][key]["value"] for key in KEPT if key in evaluated["metrics"]}
    return {**metrics, "right": "".join(DIGITS[count] for count in right)}


if __name__ == "__main__":
    main()
