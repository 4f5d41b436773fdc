"""Pictures of a study: our map of two parameters, and parallel coordinates and importances as Optuna draws them.

In the map, collapsed trials are crosses with the step at which they collapsed, in a red frame.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.distributions import CategoricalDistribution
from optuna.trial import TrialState

from redi_lab.figures.style import BAD, literal, new_figure, save_figure
from redi_lab.verbs.sweep.results import TrialView
from redi_lab.verbs.sweep.space import Parameter, Space, Value

_COLOURS = "viridis"
_MOST_BINS = 8
_MOST_POINTS = 24
_FEW_FOR_IMPORTANCE = 4


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


def plot_with_optuna(study: optuna.Study, metric: str, folder: Path) -> list[Path]:
    """Parallel coordinates and importances (PED-ANOVA); none that too few or too equal trials cannot fill."""
    import matplotlib
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as drawing

    values = [t.value for t in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    finite = [value for value in values if value is not None and math.isfinite(value)]
    drawn: dict[str, Any] = {"parallel": drawing.plot_parallel_coordinate} if finite else {}
    if len(finite) >= _FEW_FOR_IMPORTANCE and len(set(finite)) > 1:
        drawn["importances"] = drawing.plot_param_importances
    files = []
    pyplot.switch_backend("agg")  # Optuna draws through pyplot, which must not open windows
    for name, plot in drawn.items():
        with matplotlib.rc_context(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about parameters with a single value; they get 0
            axes = plot(study, target_name=metric)
            axes.set_title("")  # it would lie on the legend
            for lines in axes.collections:
                lines.set_cmap(_COLOURS)  # in Optuna's colours the worst, and so every collapsed trial, is white
            figure = axes.figure
            figure.set(size_inches=(9.0, 5.0), layout_engine="tight")
            files.append(save_figure(figure, folder / f"{name}.png"))
            pyplot.close(figure)
    return files


def _map_axes(space: Space) -> tuple[Parameter, Parameter] | None:
    always = {p.path: p for p in space if not p.when and sum(q.path == p.path for q in space) == 1}
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
