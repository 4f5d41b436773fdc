"""The results of a study: one page without external resources, its pictures, its numbers.

In the map of two parameters, collapsed trials are crosses with the step at which they collapsed, in a red frame.
"""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import FrozenTrial

from redi_lab.config.compose import load_config
from redi_lab.figures.page import embedded_image, render_page, table
from redi_lab.figures.style import BAD, literal, new_figure, save_figure
from redi_lab.files import write_text
from redi_lab.redaction import redact
from redi_lab.run.naming import objective
from redi_lab.verbs.sweep.confirm import Confirmation
from redi_lab.verbs.sweep.results import TrialView, best_trial, budget, view_trials, with_interval
from redi_lab.verbs.sweep.space import Parameter, Space, Value, as_overrides
from redi_lab.verbs.sweep.study import Sweep

PAGE = "index.html"
_COLOURS = "viridis"
_MOST_BINS = 8
_MOST_POINTS = 24
_OUTCOMES = ("finished", "collapsed", "pruned", "failed")


def write_report(sweep: Sweep, study: optuna.Study, confirmation: Confirmation | None) -> list[Path]:
    """Write the map, if the space has one, and the page into the study's folder; the files, the page last."""
    trials, page = view_trials(study), sweep.folder / PAGE
    map_file = plot_map(trials, sweep.space, sweep.settings.metric, sweep.folder / "map.png", _title(sweep))
    sentences = "".join(f"<p>{html.escape(line)}</p>\n" for line in conclusions(sweep, study, confirmation))
    storage = html.escape(redact(sweep.settings.storage).removeprefix("journal://"))
    body = f"""<h1>{html.escape(sweep.name)}</h1>
{sentences}{"" if map_file is None else embedded_image("map", map_file)}
<h2>Trials</h2>
{_table(sweep, trials)}
<p>Live view, importances and parallel coordinates: <code>optuna-dashboard {storage}</code></p>"""
    write_text(page, render_page(sweep.name, body))
    return [page] if map_file is None else [map_file, page]


def summarise(sweep: Sweep, study: optuna.Study, confirmation: Confirmation | None) -> dict[str, Any]:
    """The content of the study's summary.json."""
    trials, winner = view_trials(study), best_trial(study)
    metrics = {f"num_{word}": float(sum(t.outcome == word for t in trials)) for word in _OUTCOMES} | budget(trials)
    if winner is not None and winner.value is not None:
        interval = next(trial.interval for trial in trials if trial.number == winner.number)
        metrics |= with_interval("best_value", winner.value, interval)
    if confirmation is not None:
        metrics["confirmed_difference"] = confirmation.difference
    return {
        "name": sweep.name,
        "verb": "sweep",
        "metrics": metrics,
        "best_trial": None if winner is None else winner.number,
        "best_values": None if winner is None else winner.user_attrs["values"],
        "best_command": None if winner is None else winner.user_attrs["command"],
        "confirmation": None if confirmation is None else confirmation.as_dict(),
        "storage": redact(sweep.settings.storage),
        "trials": [asdict(trial) for trial in trials],
        "mlflow_run_id": study.user_attrs.get("mlflow_run_id"),
    }


def conclusions(sweep: Sweep, study: optuna.Study, confirmation: Confirmation | None) -> list[str]:
    """What came out, in sentences for screen and page."""
    trials, winner = view_trials(study), best_trial(study)
    used = budget(trials)
    share = 1 - used["steps"] / used["planned_steps"] if used["planned_steps"] else 0.0
    lines = [
        _headline(sweep, trials, winner),
        f"Budget: {used['steps']:,} of {used['planned_steps']:,} optimizer steps in {used['seconds'] / 60:.1f} worker"
        f" minutes; stopping early saved {share:.0%} of the steps, about {used['saved_seconds'] / 60:.1f} minutes.",
    ]
    if confirmation is not None:
        lines.append(f"Confirmation: {confirmation.verdict()}.")
    if winner is not None:
        lines.append(f"Train it:   {winner.user_attrs['command']}")
    return lines


def _headline(sweep: Sweep, trials: Sequence[TrialView], winner: FrozenTrial | None) -> str:
    counts = ", ".join(f"{n} {word}" for word in _OUTCOMES if (n := sum(t.outcome == word for t in trials)))
    text = f"{len(trials)} trials ({counts}); {sweep.settings.sampler} sampler, {sweep.settings.pruner} pruner."
    commits = {str(run["commit"])[:12] for trial in trials for run in trial.runs}
    if len(commits) > 1:
        text += f" Their code differs: commits {', '.join(sorted(commits))}."
    if winner is None:
        return f"{text} No trial finished without a collapse."
    at = " ".join(as_overrides(winner.user_attrs["values"]))
    return f"{text} Best: trial {winner.number} with {sweep.settings.metric} {winner.value:.4g} at {at}."


def _title(sweep: Sweep) -> str:
    """The study with the part of the objective that is not searched, unless the objective itself is."""
    searched = {parameter.path for parameter in sweep.space}
    if "loss" in searched:
        return sweep.name
    loss = load_config("train", list(sweep.overrides), check_paths=False).loss
    fixed = {key: value for key, value in loss.items() if f"loss.{key}" not in searched}
    return f"{sweep.name}, {objective(fixed)}"


def _table(sweep: Sweep, trials: Sequence[TrialView]) -> str:
    paths = list(dict.fromkeys(parameter.path for parameter in sweep.space))
    sign, has_several = -1 if sweep.settings.mode == "max" else 1, len(sweep.settings.seeds) > 1
    rows = []
    for t in sorted(trials, key=lambda t: (_OUTCOMES.index(t.outcome), sign * (t.value or 0.0))):
        outcome = t.outcome + ("" if t.step is None else f" at step {t.step}")
        rows.append(
            [
                str(t.number),
                *(_text(t.values.get(path)) for path in paths),
                _text(t.value),
                *([" ".join(map(_text, t.by_seed))] if has_several else []),
                "–" if t.interval is None else f"{t.interval[0]:.3f} to {t.interval[1]:.3f}",
                outcome if t.outcome == "finished" else f"{outcome}: {t.reason}",
                f"{t.steps}/{t.planned_steps}",
                f"{t.seconds:.0f}",
                " ".join(str(run["mlflow_run_id"] or "–")[:8] for run in t.runs),
            ]
        )
    seeds = ["by seed"] if has_several else []
    heads = ["trial", *paths, sweep.settings.metric, *seeds, "95 % CI", "outcome", "steps", "seconds", "MLflow runs"]
    return table(heads, rows)


def _text(value: Any) -> str:
    return "–" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def plot_map(trials: Sequence[TrialView], space: Space, metric: str, path: Path, title: str = "Trials") -> Path | None:
    """Mean value of the trials in each cell of two parameters; None if the space has no two that always exist.

    Of more than two, α and the learning rate are taken if they are there, else the first two; a cell then holds trials
    that differ in the others.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    axes = _map_axes(space)
    if axes is None:
        return None
    x, y = (Axis(parameter, len(trials)) for parameter in axes)
    figure, ax = new_figure(8.2, 5.6)
    values = [t.value for t in trials if t.outcome == "finished" and t.value is not None] or [0.0, 1.0]
    norm = Normalize(min(values), max(values))
    cells: dict[tuple[int, int], list[TrialView]] = {}
    for trial in trials:
        cells.setdefault((x.cell(trial), y.cell(trial)), []).append(trial)
    means = np.full((len(y.labels), len(x.labels)), np.nan)
    for (column, row), members in cells.items():
        finished = [t.value for t in members if t.outcome == "finished" and t.value is not None]
        if finished:
            means[row, column] = float(np.mean(finished))
        ink = "white" if finished and norm(means[row, column]) < 0.6 else "black"
        ax.text(column, row, _cell_text(members, finished), ha="center", va="center", fontsize=9, color=ink)
        if any(t.outcome == "collapsed" for t in members):
            ax.add_patch(_frame(column, row))
    ax.imshow(means, origin="lower", aspect="auto", cmap=_COLOURS, norm=norm)
    for axis, set_ticks, label in ((x, ax.set_xticks, ax.set_xlabel), (y, ax.set_yticks, ax.set_ylabel)):
        set_ticks(range(len(axis.labels)), axis.labels)
        label(axis.parameter.path)
    figure.colorbar(ScalarMappable(norm, _COLOURS), ax=ax, label=metric)
    ax.set_title(f"{literal(title)}: mean in a cell; ✕: collapsed, at which step", loc="left", fontsize=10)
    return save_figure(figure, path)


class Axis:
    """One parameter as a row of cells: its values if they are few, else bins of equal width."""

    def __init__(self, parameter: Parameter, num_trials: int) -> None:
        self.parameter = parameter
        points: Sequence[Value] = parameter.points() or ()
        self._points = points if len(points) <= _MOST_POINTS else ()
        self._is_log = not isinstance(parameter.distribution, CategoricalDistribution) and parameter.distribution.log
        self.labels = [f"{point:.4g}" if isinstance(point, float) else str(point) for point in self._points]
        if not self._points:
            num_cells = max(3, min(_MOST_BINS, round(math.sqrt(2 * num_trials))))
            low, high = map(self._position, parameter.ends())
            self._edges = np.linspace(low, high, num_cells + 1)
            ends = np.exp(self._edges) if self._is_log else self._edges
            self.labels = [f"{a:.2g}–\n{b:.2g}" for a, b in pairwise(ends)]

    def cell(self, trial: TrialView) -> int:
        """Index of the trial's cell."""
        value = trial.values[self.parameter.path]
        if self._points:
            return self._points.index(value)
        inside = np.searchsorted(self._edges, self._position(value), side="right") - 1
        return int(np.clip(inside, 0, len(self.labels) - 1))

    def _position(self, value: Any) -> float:
        return math.log(value) if self._is_log else float(value)


def _map_axes(space: Space) -> tuple[Parameter, Parameter] | None:
    always = {p.path: p for p in space if not (p.when or p.times) and sum(q.path == p.path for q in space) == 1}
    if {"loss.alpha", "optimizer.lr"} <= always.keys():
        return always["optimizer.lr"], always["loss.alpha"]
    first = list(always.values())[:2]
    return (first[1], first[0]) if len(first) == 2 else None


def _cell_text(members: Sequence[TrialView], finished: Sequence[float]) -> str:
    lines = [f"{np.mean(finished):.3f}"] if finished else []
    lines += [f"✕ {t.step}" for t in members if t.outcome == "collapsed"][:3]
    pruned = sum(t.outcome == "pruned" for t in members)
    return "\n".join([*lines, *([f"{pruned} pruned"] if pruned else [])])


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, fill=False, edgecolor=BAD, linewidth=2, zorder=3)
