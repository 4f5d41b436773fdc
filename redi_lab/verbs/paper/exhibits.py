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
from redi_lab.config.schema.paper import BENCHMARKS, Exhibit, PaperRun
from redi_lab.evaluation.metrics import Estimate, Values, average, interval, mean_difference, solved_within
from redi_lab.evaluation.results import EvaluationResult
from redi_lab.evaluation.scoring import verdicts_of
from redi_lab.figures.curves import plot_curves
from redi_lab.figures.panels import DIAGNOSTICS, PANELS, TEXT
from redi_lab.figures.shifts import Shift, plot_shifts
from redi_lab.run.naming import run_label
from redi_lab.run.record import read_summary
from redi_lab.tracking.environment import environment_tags
from redi_lab.tracking.journal import Curve, read_curves
from redi_lab.verbs.paper.command import PaperPlan
from redi_lab.verbs.paper.make import find_run, results_of

_PANELS = {panel.metrics[0]: panel for panel in (*PANELS, *DIAGNOSTICS, *TEXT)}
_PAPERS = {
    "val/pass_at_1": "accuracy",
    "train/mean_logps/chosen": "chosen_logps",
    "train/mean_logps/rejected": "rejected_logps",
}
"""Metrics of which the paper's curves are known, and the field that has them."""
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
    make = {"scores": _scores, "curves": _curves, "shifts": _shifts, "settings": _settings}[exhibit.kind]
    heads, rows = make(plan, exhibit, folder / name)
    seeds = plan.seeds if exhibit.kind == "scores" else plan.seeds[:1]
    return {
        "title": exhibit.title,
        "differs": plan.scale.differs[name],
        "made": date.today().isoformat(),
        "commit": environment_tags().get("mlflow.source.git.commit"),
        "seeds": list(seeds),
        "interval": _interval_in_words(exhibit, len(seeds)),
        "heads": heads,
        "rows": rows,
        "figure": (folder / f"{name}.png").name if exhibit.kind in ("curves", "shifts") else None,
    }


def _interval_in_words(exhibit: Exhibit, num_seeds: int) -> str:
    if exhibit.kind == "scores":
        return f"95 % intervals over {f'{num_seeds} seeds' if num_seeds > 1 else 'problems'}"
    return "one seed, so no intervals" if exhibit.kind in ("curves", "shifts") else ""


def estimate(by_seed: Sequence[Sequence[Values]], num_samples: int, *, is_difference: bool = False) -> Estimate:
    """A score, or a difference of scores: mean over seeds of the mean over benchmarks.

    Its interval is a t-interval over seeds or, where there is one seed, over the problems of each benchmark.

    Args:
        by_seed: for each seed and benchmark, the scores of its problems.
        num_samples: of each problem.
        is_difference: whether the scores lie in [-1, 1].
    """
    if len(by_seed) > 1:
        found = mean_difference(np.array([fmean(map(np.mean, values)) for values in by_seed]), num_samples)
        if is_difference:
            return found
        return Estimate(found.value, max(0.0, found.ci_low), found.ci_high, None, found.num_problems, num_samples)
    if is_difference:
        return average([mean_difference(values, num_samples) for values in by_seed[0]])
    ends = [(values, *map(float, interval(values))) for values in by_seed[0]]
    return average([Estimate(float(v.mean()), low, high, None, len(v), num_samples) for v, low, high in ends])


def _scores(plan: PaperPlan, exhibit: Exhibit, _: Path) -> tuple[list[str], list[list[str]]]:
    found: dict[str, list[list[EvaluationResult]]] = {}
    for row in exhibit.runs:
        if row.run in plan.scale.runs:
            found[row.run] = [results_of(plan, row.run, seed, best=row.best) for seed in plan.seeds]
        elif row.run in plan.scale.models:
            found[row.run] = [results_of(plan, row.run, plan.seeds[0], best=False)]
    assert exhibit.baseline is not None
    first, old = found[exhibit.baseline][0], next(row for row in exhibit.runs if row.run == exhibit.baseline)
    k = min(int(exhibit.metric.rpartition("_")[2]), int(first[0].metrics["num_samples"]))
    names = [result.benchmark for result in first]
    heads = [
        "the paper's model",
        "here",
        *(f"{name}, pass@{k}" for name in names),
        *(["average"] if len(names) > 1 else []),
        f"less {old.label}",
        *plan.scale.measures,
        *(f"paper: {name}" for name in BENCHMARKS[: len(exhibit.runs[0].scores)]),
        f"paper: less {old.label}",
    ]
    rows = []
    for row in exhibit.runs:
        ours = _score_cells(plan, row, found, exhibit.baseline, k)
        gain = "" if row is old else f"{fmean(row.scores[:5]) - fmean(old.scores[:5]):+.1f}"
        given = [*(f"{score:.1f}" for score in row.scores), gain]
        rows.append([row.label, *(ours or ["no counterpart", *[_NOTHING] * (len(heads) - 2 - len(given))]), *given])
    return heads, rows


def _score_cells(
    plan: PaperPlan, row: PaperRun, found: Mapping[str, list[list[EvaluationResult]]], baseline: str, k: int
) -> list[str]:
    """What was found for a row, the last of it its difference to the baseline; nothing where nothing stands for it."""
    if row.run is None or row.run not in found:
        return []
    mine = [[_of_problems(result, k) for result in results] for results in found[row.run]]
    cells = [_shown(estimate([[values[place]] for values in mine], k)) for place in range(len(mine[0]))]
    cells += [_shown(estimate(mine, k))] if len(mine[0]) > 1 else []
    difference = ""
    if row.run != baseline:
        pairs = zip(mine, found[baseline], strict=False)  # a model that is not trained has one seed
        less = [[m - _of_problems(o, k) for m, o in zip(values, olds, strict=True)] for values, olds in pairs]
        difference = _shown(estimate(less, k, is_difference=True), "+")
    measures = [
        f"{fmean(results[0].metrics.get(name, math.nan) for results in found[row.run]):.3f}"
        for name in plan.scale.measures.values()
    ]
    label = plan.scale.models[row.run].checkpoint if row.run in plan.scale.models else _label(plan, row.run)
    return [label, *cells, difference, *measures]


def _of_problems(result: EvaluationResult, k: int) -> Values:
    return solved_within(verdicts_of(result), k)


def _shown(score: Estimate, sign: str = "") -> str:
    low, high = (f"{100 * end:{sign}.1f}" for end in (score.ci_low, score.ci_high))
    return f"{100 * score.value:{sign}.1f} ({low} to {high})"


def _label(plan: PaperPlan, run: str) -> str:
    config = load_config("train", plan.training(run, plan.seeds[0]))
    label, epochs = run_label({"loss": config.loss, "optimizer": config.optimizer}), config.trainer.max_epochs
    return f"{label}, {epochs} epochs" if epochs > 1 else label


def _curves(plan: PaperPlan, exhibit: Exhibit, target: Path) -> tuple[list[str], list[list[str]]]:
    metrics = exhibit.panels or [panel.metrics[0] for panel in PANELS]
    known = [name for name in metrics if any(getattr(run, _PAPERS.get(name, ""), None) for run in exhibit.runs)]
    heads = ["the paper's run", "here", "collapse rule"]
    for name in metrics:
        heads += [_PANELS[name].title.split(" (")[0], *(["paper"] if name in known else [])]
    heads += ["first ‖Δθ‖", "first rate × ‖∇‖"] if exhibit.shows_first_step else []
    rows, files = [], {}
    for run in exhibit.runs:
        assert run.run is not None
        folder = find_run(plan, run.run, plan.seeds[0])
        assert folder is not None
        summary, curves = read_summary(folder), read_curves(folder / "metrics.jsonl")
        files[_label(plan, run.run)] = folder / "metrics.jsonl"
        cells = [run.label, _label(plan, run.run), (summary["collapse"] or {}).get("state", _NOTHING)]
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


def _shifts(plan: PaperPlan, exhibit: Exhibit, target: Path) -> tuple[list[str], list[list[str]]]:
    shifts, rows = dict[str, Shift](), []
    for run in exhibit.runs:
        assert run.run is not None
        folder = find_run(plan, run.run, plan.seeds[0])
        assert folder is not None
        probes = json.loads((folder / PROBES_FILE).read_text(encoding="utf-8"))
        label = _label(plan, run.run)
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


def _settings(plan: PaperPlan, exhibit: Exhibit, _: Path) -> tuple[list[str], list[list[str]]]:
    rows = []
    for run in exhibit.runs:
        assert run.run is not None
        folder = find_run(plan, run.run, plan.seeds[0])
        seconds = _NOTHING if folder is None else f"{read_summary(folder)['seconds']:.0f}"
        rows.append([run.label, f"{run.hours:g}", _label(plan, run.run), seconds])
    return ["the paper's run", "paper: GPU-hours (A100)", "here", "seconds"], rows
