"""Tables and figures as content: what trainings and evaluations say, beside the paper's numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from redi_lab.callbacks.probes import PROBES_FILE
from redi_lab.config.compose import load_config
from redi_lab.config.schema.paper import BENCHMARKS, Exhibit
from redi_lab.evaluation.metrics import (
    Estimate,
    Values,
    Verdicts,
    average,
    mean_difference,
    pass_at_k,
    solved_within,
)
from redi_lab.evaluation.scoring import verdicts_of
from redi_lab.figures.curves import plot_curves
from redi_lab.figures.panels import DIAGNOSTICS, PANELS, TEXT
from redi_lab.figures.shifts import Shift, plot_shifts
from redi_lab.run.naming import run_label
from redi_lab.run.record import read_summary
from redi_lab.tracking.environment import environment_tags
from redi_lab.tracking.journal import Curve, read_curves
from redi_lab.verbs.paper.plan import PaperPlan
from redi_lab.verbs.paper.runs import find_run, results_of

_PANELS = {panel.metrics[0]: panel for panel in (*PANELS, *DIAGNOSTICS, *TEXT)}
_PAPERS = {
    "val/pass_at_1": "accuracy",
    "train/mean_logps/chosen": "chosen_logps",
    "train/mean_logps/rejected": "rejected_logps",
}
"""Metrics of which the paper's curves are known, and the field that has them."""
Table = tuple[list[str], list[list[str]]]
"""Headings and rows."""
_SIDES = ("chosen", "rejected")
_BATCHES = 10  # of a noisy curve, over which its ends are averaged
_NOTHING = "–"


def make_content(plan: PaperPlan, name: str, exhibit: Exhibit, folder: Path) -> dict[str, Any]:
    """What the report says of an exhibit; its figure, if it has one, is drawn into a folder as PNG and PDF.

    Args:
        plan: what is made; its trainings are there.
        name: of the exhibit.
        exhibit: what the paper shows.
        folder: of the report.
    """
    makers = {"scores": _scores, "curves": _curves, "shifts": _shifts, "settings": _settings}
    heads, rows = makers[exhibit.kind](plan, exhibit, folder / name)
    seeds = plan.seeds if exhibit.kind == "scores" else plan.seeds[:1]
    over = f"{len(seeds)} seeds" if len(seeds) > 1 else "problems"
    return {
        "title": exhibit.title,
        "differs": plan.scale.differs[name],
        "made": date.today().isoformat(),
        "commit": environment_tags().get("mlflow.source.git.commit"),
        "seeds": list(seeds),
        "interval": f"95 % intervals over {over}" if exhibit.kind == "scores" else "one seed, no intervals",
        "heads": heads,
        "rows": rows,
        "figure": f"{name}.png" if exhibit.kind in ("curves", "shifts") else None,
    }


BySeed = Sequence[Sequence[Verdicts]]
"""Of each seed and benchmark."""


def score(verdicts: BySeed, k: int) -> Estimate:
    """pass@k, averaged over benchmarks; its interval is over seeds or, where there is one, over problems."""
    if len(verdicts) == 1:
        return average([pass_at_k(of_benchmark, k) for of_benchmark in verdicts[0]])
    return _over_seeds([[solved_within(one, k) for one in of_seed] for of_seed in verdicts], k)


def difference(new: BySeed, old: BySeed, k: int) -> Estimate:
    """What two models differ by in pass@k, paired by seeds and problems; its interval is as that of `score`."""
    less = [
        [solved_within(ours, k) - solved_within(theirs, k) for ours, theirs in zip(*pair, strict=True)]
        for pair in zip(new, old, strict=True)
    ]
    return average([mean_difference(one, k) for one in less[0]]) if len(less) == 1 else _over_seeds(less, k)


def _over_seeds(values: Sequence[Sequence[Values]], k: int) -> Estimate:
    """The mean over benchmarks of every seed, and the t-interval of their mean."""
    return mean_difference(np.array([fmean(map(np.mean, of_seed)) for of_seed in values]), k)


def _scores(plan: PaperPlan, exhibit: Exhibit, _: Path) -> Table:
    there = [row for row in exhibit.runs if row.run in plan.scale.runs]
    found = {row.run: [results_of(plan, str(row.run), seed, best=row.best) for seed in plan.seeds] for row in there}
    base = next(row for row in exhibit.runs if row.run == exhibit.baseline)
    first = found[base.run][0]
    k = min(exhibit.num_samples, int(first[0].metrics["num_samples"]))
    verdicts = {
        run: [[verdicts_of(result) for result in results] for results in by_seed] for run, by_seed in found.items()
    }
    heads = [
        *("the paper's model", "here", *(f"{result.benchmark}, pass@{k}" for result in first)),
        *(("average",) if len(first) > 1 else ()),
        *(f"less {base.label}", *plan.scale.measures),
        *(f"paper: {name}" for name in BENCHMARKS[: len(base.scores)]),
        f"paper: less {base.label}",
    ]
    rows = []
    for row in exhibit.runs:
        gain = fmean(row.scores[:5]) - fmean(base.scores[:5])
        given = [*(f"{score:.1f}" for score in row.scores), "" if row is base else f"{gain:+.1f}"]
        cells = ["no counterpart", *[_NOTHING] * (len(heads) - 2 - len(given))]
        if row.run in found:
            mine = verdicts[row.run]
            scores = [score([[of_seed[place]] for of_seed in mine], k) for place in range(len(first))]
            scores += [score(mine, k)] if len(first) > 1 else []
            less = "" if row is base else _shown(difference(mine, verdicts[base.run], k), "+")
            cells = [_label(plan, str(row.run)), *map(_shown, scores), less]
            for name in plan.scale.measures.values():
                mean = fmean(results[0].metrics.get(name, math.nan) for results in found[row.run])
                cells.append(_NOTHING if math.isnan(mean) else f"{mean:.3f}")
        rows.append([row.label, *cells, *given])
    return heads, rows


def _shown(found: Estimate, sign: str = "") -> str:
    low, high = (f"{100 * end:{sign}.1f}" for end in (max(found.ci_low, -1.0 if sign else 0.0), found.ci_high))
    return f"{100 * found.value:{sign}.1f} ({low} to {high})"


def _label(plan: PaperPlan, run: str) -> str:
    if (checkpoint := plan.scale.runs[run].checkpoint) is not None:
        return checkpoint
    config = load_config("train", plan.training(run, plan.seeds[0]))
    label, epochs = run_label({"loss": config.loss, "optimizer": config.optimizer}), config.trainer.max_epochs
    return f"{label}, {epochs} epochs" if epochs > 1 else label


def _curves(plan: PaperPlan, exhibit: Exhibit, target: Path) -> Table:
    metrics = exhibit.panels or [panel.metrics[0] for panel in PANELS]
    known = [name for name in metrics if any(getattr(run, _PAPERS.get(name, ""), None) for run in exhibit.runs)]
    heads = ["the paper's run", "here", "collapse rule"]
    for name in metrics:
        heads += [_PANELS[name].title.split(" (")[0], *(["paper"] if name in known else [])]
    heads += ["first ‖Δθ‖", "first rate × ‖∇‖"] if exhibit.shows_first_step else []
    rows, files = [], {}
    for run in exhibit.runs:
        folder, label = find_run(plan, str(run.run), plan.seeds[0])[0], _label(plan, str(run.run))
        summary, curves = read_summary(folder), read_curves(folder / "metrics.jsonl")
        files[label] = folder / "metrics.jsonl"
        cells = [run.label, label, (summary["collapse"] or {}).get("state", _NOTHING)]
        for name in metrics:
            cells.append(_course(name, curves.get(name, Curve()).values))
            if name in known:
                cells.append(_course(name, getattr(run, _PAPERS[name]), unit=1.0, batches=1))
        rows.append(cells + (_first_step(curves) if exhibit.shows_first_step else []))
    for suffix in (".png", ".pdf"):
        plot_curves(files, target.with_suffix(suffix), [_PANELS[name] for name in metrics])
    return heads, rows


def _course(name: str, values: Sequence[float], unit: float = 100.0, batches: int = _BATCHES) -> str:
    """The first and the last value of a curve, of accuracy in percent and with the best one between them."""
    if not values:
        return _NOTHING
    if name == "val/pass_at_1":
        return " → ".join(f"{unit * value:.1f}" for value in (values[0], max(values), values[-1]))
    number = batches if name.startswith("train/") else 1
    return " → ".join(f"{value:.3g}" for value in (fmean(values[:number]), fmean(values[-number:])))


def _first_step(curves: Mapping[str, Curve]) -> list[str]:
    """Of the first step that moves: warm-up begins with a rate of 0."""
    rates, gradients, moves = (curves[f"train/{name}"].values for name in ("lr", "grad_norm", "update_norm"))
    first = next((place for place, move in enumerate(moves) if move > 0), 0)
    return [f"{moves[first]:.2g}", f"{rates[first] * gradients[first]:.2g}"]


def _shifts(plan: PaperPlan, exhibit: Exhibit, target: Path) -> Table:
    shifts, rows = dict[str, Shift](), []
    for run in exhibit.runs:
        folder, label = find_run(plan, str(run.run), plan.seeds[0])[0], _label(plan, str(run.run))
        probes = json.loads((folder / PROBES_FILE).read_text(encoding="utf-8"))
        shifts[label] = {side: (probes["start"][side], probes["now"][side]) for side in _SIDES}
        cells = [run.label, label]
        for start, now in (map(np.array, shifts[label][side]) for side in _SIDES):
            slope = np.polyfit(start, now - start, 1)[0] if len(start) > 1 else math.nan
            cells += [str(len(start)), f"{start.mean():.3f}", f"{(now - start).mean():+.3f}", f"{slope:+.2f}"]
        rows.append(cells)
    for suffix in (".png", ".pdf"):
        plot_shifts(shifts, target.with_suffix(suffix))
    parts = ("traces", "mean log-prob at first", "mean change", "change for each nat")
    return ["the paper's run", "here", *(f"{side}: {part}" for side in _SIDES for part in parts)], rows


def _settings(plan: PaperPlan, exhibit: Exhibit, _: Path) -> Table:
    rows = []
    for run in exhibit.runs:
        start = plan.scale.runs[str(run.run)].start
        is_there = start is None or find_run(plan, start, plan.seeds[0])[1]
        folder, is_there = find_run(plan, str(run.run), plan.seeds[0]) if is_there else (Path(), False)
        seconds = f"{read_summary(folder)['seconds']:.0f}" if is_there else _NOTHING
        rows.append([run.label, f"{run.hours:g}", _label(plan, str(run.run)), seconds])
    return ["the paper's run", "paper: GPU-hours (A100)", "here", "seconds"], rows
