"""Does counting foretell which α harms? Eight teachers of the embedded task, the advice for each, and trainings over α.

    python -m experiments.alpha_advice.run              # all of it; goes on where it was stopped
    python -m experiments.alpha_advice.run --report     # the table of the rows that are there

The teachers differ in how often they hurry, and how often each way of working fails, so that hasty answers are more or
less frequent among failures. `curate advise` counts their pairs; each training starts from the teacher's own SFT and
takes one epoch over the same pairs. Nothing of the advice was fitted to these teachers.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from scipy.stats import spearmanr

from experiments.collapse_edges.plan import is_harmed
from experiments.runner import (
    ENVIRONMENT,
    MEASURED,
    SFT,
    Results,
    arguments_of,
    be_quiet,
    places,
    read_row,
    train_once,
)

ALPHAS = (0.2, 0.35, 0.5, 0.65, 0.8, 0.9, 1.0)
TEACHERS: Mapping[str, Mapping[str, float]] = {
    "default": {},
    "hastier": {"haste_last": 0.8},
    "rarely hasty": {"haste_last": 0.25},
    "haste fails more": {"haste_slip_rate": 0.6},
    "haste fails less": {"haste_slip_rate": 0.15},
    "careless columns": {"slip_rate": 0.1},
    "careless and hasty": {"slip_rate": 0.1, "haste_last": 0.8},
    "haste no worse": {"slip_rate": 0.08, "haste_slip_rate": 0.25},
}
"""What differs from the teacher of conf/data/arithmetic.yaml."""
SEED = 201


def main() -> None:
    """Run what is missing, then tabulate what is there."""
    arguments = arguments_of(__doc__.split("\n")[0], "alpha_advice").parse_args()
    results = Results(arguments.results)
    if not arguments.report:
        run(results, arguments.outputs.absolute(), arguments.workers)
    print(report(results.content))


def overrides(teacher: str) -> list[str]:
    """What the command line says of a teacher."""
    return [f"data.source.teacher.{key}={value}" for key, value in TEACHERS[teacher].items()] + [f"seed={SEED}"]


def run(results: Results, outputs: Path, workers: int) -> None:
    """Advise on each teacher's pairs, train its SFT, then one training for each α."""
    os.environ.update(ENVIRONMENT)
    advice, runs = results.content["starts"], results.content["runs"]
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, spawned, be_quiet, (outputs,)) as pool:
        new = [teacher for teacher in TEACHERS if teacher not in advice]
        for teacher, found in zip(new, pool.map(functools.partial(advise, outputs), new), strict=True):
            advice[teacher] = found
            results.save()
        list(pool.map(functools.partial(train_start, outputs), TEACHERS))
        points = [(teacher, alpha) for alpha in reversed(ALPHAS) for teacher in TEACHERS]
        missing = [point for point in points if name_of(*point) not in runs]
        for point, row in zip(missing, pool.map(functools.partial(train, outputs), missing), strict=True):
            runs[name_of(*point)] = row
            print(f"{name_of(*point)}: {row['accuracy'][-1]:.3f}", flush=True)
            results.save()


def name_of(teacher: str, alpha: float) -> str:
    """Of a row and its folder."""
    return f"{teacher.replace(' ', '-')}_alpha{alpha:g}"


def advise(outputs: Path, teacher: str) -> dict[str, Any]:
    """What `curate advise` says of a teacher's pairs."""
    from redi_lab.verbs.curate.advise import run_advise

    folder = outputs / "advice" / teacher.replace(" ", "-")
    if not (folder / "summary.json").exists():
        run_advise([*overrides(teacher), "pairs=100000", *places(outputs, folder)])
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    return {key: summary[key] for key in ("num_pairs", "tells", "advised_alpha", "alpha_beyond_chance")}


def train_start(outputs: Path, teacher: str) -> None:
    """SFT on a teacher's right traces."""
    folder = outputs / "sft" / teacher.replace(" ", "-")
    train_once(folder, outputs, [*SFT, *overrides(teacher)])


def train(outputs: Path, point: tuple[str, float]) -> dict[str, Any]:
    """REDI at an α on a teacher's pairs."""
    teacher, alpha = point
    folder, start = outputs / "runs" / name_of(*point), outputs / "sft" / teacher.replace(" ", "-")
    more = ["loss=redi", f"loss.alpha={alpha}", f"init_from={start / 'checkpoints' / 'last'}"]
    train_once(folder, outputs, [*more, *overrides(teacher), *MEASURED])
    return {"teacher": teacher, "alpha": alpha, **read_row(folder)}


def report(content: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of teachers, and how well the order of the advice foretells the order of what was measured."""
    lines = [
        "| teacher | pairs | 5 % beyond chance from α | advised | best α | harmed from α | accuracy by α |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    foretold, measured = [], []
    for teacher, advice in content["starts"].items():
        rows = {row["alpha"]: row for row in content["runs"].values() if row["teacher"] == teacher}
        if len(rows) < len(ALPHAS):
            continue
        edge, harmed = advice["alpha_beyond_chance"]["0.05"], harmed_from(rows)
        best = max(ALPHAS, key=lambda alpha: (rows[alpha]["accuracy"][-1], -alpha))
        scores = ", ".join(f"{alpha:g}: {rows[alpha]['accuracy'][-1]:.2f}" for alpha in ALPHAS)
        shown = [f"{value:g}" if value is not None else "none" for value in (edge, advice["advised_alpha"])]
        cells = [
            teacher,
            f"{advice['num_pairs']:,}",
            *shown,
            f"{best:g}",
            "none" if harmed > 1 else f"{harmed:g}",
            scores,
        ]
        lines.append(f"| {' | '.join(cells)} |")
        foretold.append(1.1 if edge is None else edge)
        measured.append(harmed)
    if len(foretold) > 2:
        found = spearmanr(foretold, measured)
        over = f"over {len(foretold)} teachers: {found.statistic:.2f} (p = {found.pvalue:.2g})"
        lines += ["", f"Spearman's ρ of the two edges {over}"]
    return "\n".join(lines)


def harmed_from(rows: Mapping[float, Mapping[str, Any]]) -> float:
    """The smallest α whose run is harmed; 1.1 where none is."""
    return next((alpha for alpha in sorted(rows) if is_harmed(rows[alpha])), 1.1)


if __name__ == "__main__":
    main()
