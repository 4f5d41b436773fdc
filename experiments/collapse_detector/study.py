"""Which fall of log-probs tells harm, on runs that the limits were found on and on runs that they were not.

    python -m experiments.collapse_detector.study collect --outputs outputs/collapse_detector
    python -m experiments.collapse_detector.study collect --edges outputs/collapse_edges
    python -m experiments.collapse_detector.study check

`collect` keeps what rule and labels need of the runs of record.py, or of the other study, in
tests/callbacks/*_curves.json.gz, which everything else reads; `check` writes tables, results.json and the picture.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import binomtest

from redi_lab.callbacks.collapse_rule import ACCURACY, CHOSEN_BATCH, CHOSEN_PROBE, CollapseState, Limits
from redi_lab.tracking.journal import read_curves
from tests.callbacks.collapse_curves import (
    EDGES,
    HARM,
    PAPER,
    RECORDED,
    Points,
    RecordedRun,
    Score,
    alarm_step,
    load_runs,
    replay,
    save_runs,
    score,
)

HERE = Path(__file__).parent
DRIFTING, COLLAPSED = CollapseState.DRIFTING, CollapseState.COLLAPSED
RULES: dict[str, dict[str, Any]] = {
    "drifting or collapsed": {"state": DRIFTING},
    "collapsed, without accuracy": {},
    "collapsed, accuracy decides": {"curves": (CHOSEN_PROBE, ACCURACY)},
    "drifting, without probes": {"curves": (CHOSEN_BATCH,), "state": DRIFTING},
    "collapsed, without probes": {"curves": (CHOSEN_BATCH,)},
}
STATISTICS: dict[str, tuple[str, int]] = {
    "mean log-prob of positives": (CHOSEN_PROBE, -1),
    "least likely token, the median positive": ("probe/median_min_token_logp", -1),
    "least likely token of all positives": ("probe/min_token_logp", -1),
    "mean log-prob of negatives": ("probe/rejected_mean_logps", -1),
    "entropy on positives": ("probe/entropy", 1),
    "gradient norm": ("train/grad_norm", 1),
    "update norm": ("train/update_norm", 1),
}
"""What a fall, or rise, could be taken of: the metric, and whether a collapse raises (1) or lowers (−1) it."""
THRESHOLDS = (0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.3)
PAPER_WINDOW = 166
"""A tenth of the paper's second stage, in optimizer steps."""
_RESAMPLES = 2000
_COLOURS = {"harmed": "#D55E00", "unharmed": "#0072B2"}


def main() -> None:
    """Dispatch."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("collect", "check"))
    parser.add_argument("--outputs", type=Path, help="of record.py")
    parser.add_argument("--edges", type=Path, help="of experiments/collapse_edges")
    arguments = parser.parse_args()
    if arguments.what == "check":
        check()
    elif arguments.outputs is not None:
        collect(arguments.outputs / "runs", "_seed", RECORDED)
    elif arguments.edges is not None:
        collect(arguments.edges / "runs", "_s", EDGES)
    else:
        parser.error("collect needs --outputs or --edges")


def collect(folder: Path, before_seed: str, fixture: Path) -> None:
    """Read finished runs, named NAME, `before_seed`, SEED, into a fixture."""
    runs = []
    for path in sorted(folder.glob(f"*{before_seed}*/metrics.jsonl")):
        if not (path.parent / "summary.json").exists():
            continue
        name, seed = path.parent.name.rsplit(before_seed, 1)
        found = read_curves(path)
        kept = [
            CHOSEN_BATCH,
            *(metric for metric, _ in STATISTICS.values() if fixture == RECORDED or "norm" not in metric),
        ]
        # A train/ metric is logged under the steps behind its weights and seen one step later.
        curves = {m: Points([s + m.startswith("train/") for s in found[m].steps], found[m].values) for m in kept}
        runs.append(RecordedRun(name, int(seed), Points(found[ACCURACY].steps, found[ACCURACY].values), curves))
    save_runs(runs, fixture)
    print(f"{len(runs)} runs in {fixture}")


def check() -> None:
    """The rule with its default limits on all three sets, thresholds with a seed left out, and other statistics."""
    sets = {"recorded": load_runs(RECORDED), "edges": load_runs(EDGES)}
    results: dict[str, Any] = {"limits": asdict(Limits()), "rules": {}, "left out": {}, "statistics": {}}
    for rule, options in RULES.items():
        results["rules"][rule] = {name: asdict(judge(runs, **options)) for name, runs in sets.items()}
    results["left out"] = left_out(sets["recorded"])
    for statistic, (metric, sign) in STATISTICS.items():
        results["statistics"][statistic] = {name: separation(runs, metric, sign) for name, runs in sets.items()}
    results["paper"] = {
        run.name: [alarm_step(replay(run, Limits(window_steps=PAPER_WINDOW)), state) for state in (DRIFTING, COLLAPSED)]
        for run in load_runs(PAPER)
    }
    (HERE / "results.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print("\n".join(table(results)))
    draw(sets["edges"], HERE / "collapse-detector.png")


def judge(
    runs: Sequence[RecordedRun], curves: Sequence[str] = (), state: CollapseState = COLLAPSED, **limits: float
) -> Score:
    """The rule on runs."""
    return score(runs, [alarm_step(replay(run, Limits(**limits), curves=curves), state) for run in runs])  # type: ignore[arg-type]


def left_out(runs: Sequence[RecordedRun]) -> list[dict[str, Any]]:
    """For each seed, the drifting threshold that tells harm best on the other seeds, and how it does on this one."""
    found = []
    for seed in sorted({run.seed for run in runs}):
        others, own = [r for r in runs if r.seed != seed], [r for r in runs if r.seed == seed]
        best = max(THRESHOLDS, key=lambda nats: _youden(judge(others, state=DRIFTING, drifting_nats=nats)))
        found.append({"seed": seed, "nats": best} | asdict(judge(own, state=DRIFTING, drifting_nats=best)))
    return found


def _youden(found: Score) -> float:
    """Share of harmed runs caught less share of unharmed ones flagged."""
    return found.caught / found.harmed - found.false_alarms / found.unharmed


def separation(runs: Sequence[RecordedRun], metric: str, sign: int) -> tuple[float, float, float] | None:
    """How well one curve's worst change within the window tells harmed runs: area under the ROC curve, 95 % interval.

    The interval is a percentile bootstrap over runs. None: the runs have no such curve.
    """
    if not all(metric in run.curves for run in runs):
        return None
    changes = np.array([_worst_change(run.curves[metric], sign) for run in runs])
    is_harmed = np.array([run.first_loss(HARM) is not None for run in runs])
    random = np.random.default_rng(0)
    areas = []
    for _ in range(_RESAMPLES):
        picked = random.integers(len(runs), size=len(runs))
        if 0 < is_harmed[picked].sum() < len(runs):
            areas.append(_area(changes[picked], is_harmed[picked]))
    low, high = np.percentile(areas, [2.5, 97.5])
    return _area(changes, is_harmed), float(low), float(high)


def _area(values: np.ndarray[Any, Any], is_harmed: np.ndarray[Any, Any]) -> float:
    gaps = values[is_harmed][:, None] - values[~is_harmed]
    return float(np.mean((gaps > 0) + 0.5 * (gaps == 0)))


def _worst_change(curve: Points, sign: int) -> float:
    points = list(zip(*curve, strict=True))
    window = Limits().window_steps
    return max(sign * value - min(sign * v for s, v in points if step - window <= s <= step) for step, value in points)


def table(results: dict[str, Any]) -> Iterator[str]:
    """Markdown."""
    yield "| alarm | runs | harm caught | crashes caught | false alarms | lead, steps |"
    yield "|---|---|---:|---:|---:|---:|"
    for rule, sets in results["rules"].items():
        for name, found in sets.items():
            yield f"| {rule} | {name} | {cells(found)} |"
    yield "\n| statistic | recorded | edges |\n|---|---|---|"
    for statistic, sets in results["statistics"].items():
        areas = ("–" if one is None else "{:.3f} ({:.3f}–{:.3f})".format(*one) for one in sets.values())
        yield f"| {statistic} | {' | '.join(areas)} |"
    counts = ("caught", "harmed", "crashes_caught", "crashed", "false_alarms", "unharmed")
    sums = {"leads": [lead for one in results["left out"] for lead in one["leads"]]}
    sums |= {count: sum(one[count] for one in results["left out"]) for count in counts}
    thresholds = ", ".join(str(one["nats"]) for one in results["left out"])
    yield f"\nDrifting, each seed by the threshold that is best on the others ({thresholds}): {cells(sums)}"
    yield f"The paper's runs, first step of drifting and of collapse: {results['paper']}"


def cells(found: dict[str, Any]) -> str:
    """Counts with Clopper–Pearson intervals; leads in steps."""
    leads = found["leads"]
    in_time = sum(lead >= 0 for lead in leads)
    lead = f"{statistics.median(leads):+g}, {in_time} of {len(leads)} in time" if leads else "–"
    counts = (("caught", "harmed"), ("crashes_caught", "crashed"), ("false_alarms", "unharmed"))
    return " | ".join([*(share(found[count], found[total]) for count, total in counts), lead])


def share(count: int, total: int) -> str:
    """With its exact interval."""
    interval = binomtest(count, total).proportion_ci(method="exact")
    return f"{count} of {total} ({interval.low:.0%}–{interval.high:.0%})"


def draw(runs: Sequence[RecordedRun], path: Path) -> None:
    """Every run: its worst fall against the largest share of its best accuracy that it lost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.5), layout="constrained")
    ax = figure.subplots()
    for label, colour in _COLOURS.items():
        chosen = [run for run in runs if (run.first_loss(HARM) is not None) == (label == "harmed")]
        falls = [max(_worst_change(run.curves[CHOSEN_PROBE], -1), 1e-3) for run in chosen]
        ax.scatter(
            falls, [_worst_loss(run) for run in chosen], s=14, color=colour, alpha=0.6, label=f"{label} ({len(chosen)})"
        )
    for nats, name in ((Limits().drifting_nats, "drifting"), (Limits().collapsed_nats, "collapsed")):
        ax.axvline(nats, color="black", linewidth=0.8, linestyle=":")
        ax.annotate(name, (nats, 1.01), xycoords=("data", "axes fraction"), fontsize=8, ha="center")
    ax.set_xscale("log")
    ax.set_xlabel(f"largest fall of held-back positives within {Limits().window_steps} steps, nats per token")
    ax.set_ylabel("share of the best accuracy lost")
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def _worst_loss(run: RecordedRun) -> float:
    best = np.maximum.accumulate(run.accuracy.values)
    return float(np.max(1 - np.asarray(run.accuracy.values) / best))


if __name__ == "__main__":
    main()
