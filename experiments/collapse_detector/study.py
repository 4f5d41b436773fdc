"""Tune the collapse rule on half of the seeds, check it once on the other half, and draw what it does.

    python -m experiments.collapse_detector.study collect --outputs outputs/collapse_detector  # runs → fixture
    python -m experiments.collapse_detector.study tune    # reads the seeds for tuning alone
    python -m experiments.collapse_detector.study check   # the table, results.json and the picture

`collect` keeps what rule and labels need in tests/callbacks/collapse_curves.json.gz, which everything else reads.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from redi_lab.callbacks.collapse_rule import CHOSEN_BATCH, CHOSEN_PROBE, TOKEN_PROBE, CollapseState, Limits
from redi_lab.tracking.journal import read_curves
from tests.callbacks.collapse_curves import (
    Points,
    RecordedRun,
    Score,
    alarm_step,
    load_runs,
    replay,
    save_runs,
    score,
)

TUNING_SEEDS = (101, 102, 103)
CHECK_SEEDS = (104, 105, 106)
HERE = Path(__file__).parent
GRID: dict[str, tuple[Any, ...]] = {
    "token_nats": (3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 10.0),
    "chosen_nats": (0.2, 0.3, 0.4, 0.6, 1.0, 10.0),
    "confirmations": (1, 2),
    "window_steps": (30, 50, 80),
}
SINGLE: dict[str, tuple[str, int]] = {
    "lowest token log-prob of the typical positive": (TOKEN_PROBE, -1),
    "lowest token log-prob of all positives": ("probe/min_token_logp", -1),
    "mean log-prob of positives": (CHOSEN_PROBE, -1),
    "mean log-prob of negatives": ("probe/rejected_mean_logps", -1),
    "entropy on positives": ("probe/entropy", 1),
    "gradient norm": ("train/grad_norm", 1),
    "update norm": ("train/update_norm", 1),
}
"""Statistics by themselves: the metric, and whether a collapse raises (1) or lowers (−1) it."""
RULES: dict[str, dict[str, Any]] = {
    "probes every 5 steps": {"every": 5},
    "probes every 10 steps": {"every": 10},
    "least likely token alone": {"every": 5, "curves": (TOKEN_PROBE,)},
    "mean log-prob of positives alone": {"every": 5, "curves": (CHOSEN_PROBE,)},
    "without probes": {"every": 1, "curves": (CHOSEN_BATCH,)},
    "probes every 5 steps, from drifting on": {"every": 5, "state": CollapseState.DRIFTING},
}
_KEPT = (*(metric for metric, _ in SINGLE.values()), CHOSEN_BATCH)
_ALLOWED_FALSE_ALARMS = 0.05
_COLOURS = {"collapsed": "#D55E00", "recovered": "#E69F00", "healthy": "#0072B2"}


def main() -> None:
    """Dispatch."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("collect", "tune", "check"))
    parser.add_argument("--outputs", type=Path, default=Path("outputs/collapse_detector"))
    arguments = parser.parse_args()
    if arguments.what == "collect":
        collect(arguments.outputs / "runs")
    else:
        {"tune": tune, "check": check}[arguments.what]()


def collect(folder: Path) -> None:
    """Read the recorded runs into the fixture."""
    runs = []
    for path in sorted(folder.glob("*_seed*/metrics.jsonl")):
        if not (path.parent / "summary.json").exists():
            continue
        name, seed = path.parent.name.rsplit("_seed", 1)
        found = read_curves(path)
        accuracy = Points(found["val/pass_at_1"].steps, found["val/pass_at_1"].values)
        # A train/ metric is logged under the steps behind its weights and seen one step later.
        shift = {metric: metric.startswith("train/") for metric in _KEPT}
        curves = {m: Points([s + shift[m] for s in found[m].steps], found[m].values) for m in _KEPT}
        runs.append(RecordedRun(name, int(seed), accuracy, curves))
    save_runs(runs)
    print(f"{len(runs)} runs")


def tune() -> None:
    """Choose limits: no collapse missed, few false alarms, then the earliest alarms, then the widest limits."""
    runs = [run for run in load_runs() if run.seed in TUNING_SEEDS]
    ranked = []
    for values in itertools.product(*GRID.values()):
        settings = dict(zip(GRID, values, strict=True))
        found = judge(runs, Limits(**settings), 5)
        rate = found.false_alarms / found.healthy
        order = (
            found.detected,
            -max(rate, _ALLOWED_FALSE_ALARMS),
            found.recovered_detected,
            statistics.mean(found.leads),
        )
        ranked.append((order, settings["token_nats"], settings["chosen_nats"], settings, found))
    ranked.sort(key=lambda row: row[:3], reverse=True)
    for *_, settings, found in ranked[:25]:
        print(settings, asdict(found) | {"leads": summarised(found.leads)})


def check() -> None:
    """The rule with its default limits, and single statistics, on the seeds that tuning never saw."""
    runs = load_runs()
    halves = {
        "tuning": [r for r in runs if r.seed in TUNING_SEEDS],
        "check": [r for r in runs if r.seed in CHECK_SEEDS],
    }
    results: dict[str, Any] = {"limits": asdict(Limits()), "runs": {}, "rules": {}, "single": {}}
    for half, members in halves.items():
        results["runs"][half] = [
            {"name": r.name, "seed": r.seed, "label": r.label, "halved": r.halving_step} | alarms_of(r) for r in members
        ]
        for rule, options in RULES.items():
            results["rules"].setdefault(rule, {})[half] = asdict(judge(members, Limits(), **options))
    for name, (metric, sign) in SINGLE.items():
        results["single"][name] = single_statistic(halves["tuning"], halves["check"], metric, sign)
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(results)))
    draw(halves["check"], HERE / "collapse-detector.png")


def judge(
    runs: Sequence[RecordedRun],
    limits: Limits,
    every: int,
    curves: Sequence[str] = (),
    state: CollapseState = CollapseState.COLLAPSED,
) -> Score:
    """The rule on runs."""
    return score(runs, [alarm_step(replay(run, limits, every, curves), state) for run in runs])


def alarms_of(run: RecordedRun) -> dict[str, int | None]:
    """First step of each state."""
    verdicts = replay(run, Limits(), 5)
    return {
        "drifting": alarm_step(verdicts, CollapseState.DRIFTING),
        "alarm": alarm_step(verdicts),
    }


def single_statistic(
    tuning: Sequence[RecordedRun], check_runs: Sequence[RecordedRun], metric: str, sign: int
) -> dict[str, Any]:
    """One curve's change within the window; the threshold is the least with few false alarms on the tuning seeds."""

    def changes(run: RecordedRun) -> Iterator[tuple[int, float]]:
        points = list(zip(*run.curves[metric], strict=True))
        for step, value in points:
            lately = [sign * v for s, v in points if step - Limits().window_steps <= s <= step]
            yield step, sign * value - min(lately)

    healthy = sorted((max(c for _, c in changes(r)) for r in tuning if r.label == "healthy"), reverse=True)
    threshold = healthy[math.floor(_ALLOWED_FALSE_ALARMS * len(healthy))]
    alarms = [next((step for step, change in changes(r) if change > threshold), None) for r in check_runs]
    return {"threshold": round(threshold, 4)} | asdict(score(check_runs, alarms))


def table(results: dict[str, Any]) -> list[str]:
    """Markdown."""
    columns = "collapses caught | recovered ones | false alarms | on unharmed runs | lead, steps |"
    lines = [f"| rule | runs | {columns}", "|---|---|---:|---:|---:|---:|---:|"]
    for rule, halves in results["rules"].items():
        lines += [f"| {rule} | {half} | {cells(found)} |" for half, found in halves.items()]
    lines += ["", f"| single statistic | threshold | {columns}", "|---|---:|---:|---:|---:|---:|---:|"]
    lines += [f"| {name} | {found['threshold']:.3g} | {cells(found)} |" for name, found in results["single"].items()]
    return lines


def cells(found: dict[str, Any]) -> str:
    """Counts with Clopper–Pearson intervals; leads in steps."""
    return " | ".join(
        [
            share(found["detected"], found["collapsed"]),
            f"{found['recovered_detected']} of {found['recovered']}",
            share(found["false_alarms"], found["healthy"]),
            f"{found['unharmed_alarms']} of {found['unharmed']}",
            summarised(found["leads"]),
        ]
    )


def share(count: int, total: int) -> str:
    """With its exact interval."""
    interval = binomtest(count, total).proportion_ci(method="exact")
    return f"{count} of {total} ({interval.low:.0%}–{interval.high:.0%})"


def summarised(leads: Sequence[int]) -> str:
    """Median, extremes, and how many are not late."""
    if not leads:
        return "–"
    in_time = sum(lead >= 0 for lead in leads)
    return f"{statistics.median(leads):+g} ({min(leads):+d} to {max(leads):+d}), {in_time} of {len(leads)} in time"


def draw(runs: Sequence[RecordedRun], path: Path) -> None:
    """Accuracy and the two watched curves of every run, with the alarms."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    axes = figure.subplots(1, 3)
    titles = ("Accuracy (greedy pass@1)", "Typical positive's least likely token, nats", "Positives, nats per token")
    for run in sorted(runs, key=lambda run: list(_COLOURS).index(run.label), reverse=True):
        alarm = alarms_of(run)["alarm"]
        for ax, points in zip(axes, (run.accuracy, run.curves[TOKEN_PROBE], run.curves[CHOSEN_PROBE]), strict=True):
            ax.plot(*points, color=_COLOURS[run.label], alpha=0.55, linewidth=1)
            if alarm is not None:
                nearest = min(range(len(points.steps)), key=lambda i: abs(points.steps[i] - alarm))
                ax.plot(alarm, points.values[nearest], "x", color="black", markersize=5, zorder=5)
    for ax, title in zip(axes, titles, strict=True):
        ax.set_title(title, loc="left", fontsize=10)
        ax.set_xlabel("optimizer step")
        ax.spines[["top", "right"]].set_visible(False)
    counts = {label: sum(run.label == label for run in runs) for label in _COLOURS}
    for label, colour in _COLOURS.items():
        axes[0].plot([], [], color=colour, label=f"{label} ({counts[label]})")
    axes[0].plot([], [], "x", color="black", label="alarm")
    axes[0].legend(fontsize=8, loc="lower left")
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
