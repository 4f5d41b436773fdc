"""Pictures of a study: the map of two parameters, parallel coordinates, importances.

Collapsed trials are red crosses with the step at which they collapsed, pruned ones grey. matplotlib's object-oriented
interface is used throughout: no global state, no display.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from redi_lab.files import replacing
from redi_lab.verbs.sweep.results import TrialView
from redi_lab.verbs.sweep.space import Parameter, Space, Value

_COLLAPSED, _PRUNED = "#D55E00", "#8c8c8c"
_COLOURS = "viridis"
_CANDIDATES = 8
"""Most cells of an axis that is a continuum."""


def plot_map(trials: Sequence[TrialView], space: Space, metric: str, path: Path, title: str = "Trials") -> Path | None:
    """Mean value of the trials in each cell of two parameters; None if the space has no two that always exist.

    Of more than two, α and the learning rate are taken if they are there, else the first two; a cell then holds trials
    that differ in the others.
    """
    axes = _map_axes(space)
    if axes is None:
        return None
    x, y = (_Axis(parameter, len(trials)) for parameter in axes)
    shown = [t for t in trials if t.value is not None and math.isfinite(t.value)]
    figure, ax = _figure((8.2, 5.6))
    norm = _norm(shown)
    cells: dict[tuple[int, int], list[TrialView]] = {}
    for trial in trials:
        cells.setdefault((x.cell(trial), y.cell(trial)), []).append(trial)
    grid = np.full((y.num_cells, x.num_cells), np.nan)
    for (column, row), members in cells.items():
        finished = [t.value for t in members if t.outcome == "finished" and t.value is not None]
        if finished:
            grid[row, column] = float(np.mean(finished))
        ax.text(
            column,
            row,
            _cell_text(members, finished),
            ha="center",
            va="center",
            fontsize=9,
            color=_ink(grid[row, column], norm),
        )
        if any(t.outcome == "collapsed" for t in members):
            ax.add_patch(_frame(column, row))
    ax.imshow(grid, origin="lower", aspect="auto", cmap=_COLOURS, norm=norm)
    for axis, set_ticks, label in ((x, ax.set_xticks, ax.set_xlabel), (y, ax.set_yticks, ax.set_ylabel)):
        set_ticks(range(axis.num_cells), axis.labels)
        label(axis.parameter.path)
    figure.colorbar(ScalarMappable(norm, _COLOURS), ax=ax, label=metric)
    ax.set_title(f"{title}: mean in a cell; ✕: collapsed, at which step", loc="left", fontsize=10)
    return _save(figure, path)


def plot_parallel(trials: Sequence[TrialView], space: Space, metric: str, path: Path, title: str = "Trials") -> Path:
    """One line a trial through its parameters to its value; a parameter that it does not have is left out."""
    paths = list(dict.fromkeys(parameter.path for parameter in space))
    scales = {
        name: _Scale([t.values[name] for t in trials if name in t.values], _is_log(space, name)) for name in paths
    }
    shown = [t for t in trials if t.value is not None and math.isfinite(t.value)]
    values = _Scale([t.value for t in shown], log=False)
    figure, ax = _figure((2.4 + 1.9 * len(paths), 4.6))
    norm = _norm(shown)
    for trial in sorted(shown, key=lambda t: t.value or 0.0):
        at = [(i, scales[name].place(trial.values[name])) for i, name in enumerate(paths) if name in trial.values]
        at.append((len(paths), values.place(trial.value)))
        ax.plot(*zip(*at, strict=True), **_line(trial, norm))
    for i, scale in enumerate([*scales.values(), values]):
        ax.axvline(i, color="#444444", linewidth=0.8)
        for place, label in scale.ticks():
            ax.annotate(label, (i, place), xytext=(3, 2), textcoords="offset points", fontsize=8)
    ax.set_xticks(range(len(paths) + 1), [*paths, metric])
    ax.set_yticks([])
    ax.set_xlim(-0.2, len(paths) + 0.5)
    ax.spines[:].set_visible(False)
    ax.set_title(f"{title}: a line each; dashed: collapsed, dotted: pruned", loc="left", fontsize=10)
    return _save(figure, path)


def plot_importances(importances: Mapping[str, float], path: Path) -> Path:
    """A bar for each parameter."""
    figure, ax = _figure((6.5, 1.4 + 0.5 * len(importances)))
    names = list(importances)[::-1]
    bars = ax.barh(names, [importances[name] for name in names], color="#0072B2")
    ax.bar_label(bars, fmt="%.2f", padding=3)
    ax.set_xlim(0, 1.12)
    ax.set_xlabel("share of the difference between good and other trials (PED-ANOVA)")
    ax.spines[["top", "right"]].set_visible(False)
    return _save(figure, path)


class _Axis:
    """One parameter as a row of cells: its values if they are few, else bins of equal width."""

    def __init__(self, parameter: Parameter, num_trials: int) -> None:
        self.parameter = parameter
        is_continuum = not parameter.choices and parameter.step is None
        points: Sequence[Value] = () if is_continuum else parameter.points()
        self._points = list(points) if 0 < len(points) <= 3 * _CANDIDATES else []
        if self._points:
            self.num_cells, self.labels = len(self._points), [_text(point) for point in self._points]
            return
        self.num_cells = max(3, min(_CANDIDATES, round(math.sqrt(2 * num_trials))))
        low, high = (self._position(end) for end in (parameter.low, parameter.high))
        self._edges = np.linspace(low, high, self.num_cells + 1)
        ends = np.exp(self._edges) if parameter.log else self._edges
        self.labels = [f"{a:.2g}–\n{b:.2g}" for a, b in pairwise(ends)]

    def cell(self, trial: TrialView) -> int:
        """Index of the trial's cell."""
        value = trial.values[self.parameter.path]
        if self._points:
            return min(range(self.num_cells), key=lambda i: _distance(self._points[i], value))
        assert isinstance(value, int | float)  # of a range
        inside = np.searchsorted(self._edges, self._position(value), side="right") - 1
        return int(np.clip(inside, 0, self.num_cells - 1))

    def _position(self, value: float) -> float:
        return math.log(value) if self.parameter.log else value


class _Scale:
    """Places values of one column between 0 and 1."""

    def __init__(self, values: Sequence[Any], log: bool) -> None:
        self._log = log
        self._is_numeric = all(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
        self._values = sorted(set(values)) if self._is_numeric else list(dict.fromkeys(values))

    def place(self, value: Any) -> float:
        if not self._is_numeric:
            return self._values.index(value) / max(len(self._values) - 1, 1)
        low, high, at = (math.log(v) if self._log else v for v in (self._values[0], self._values[-1], value))
        return (at - low) / (high - low) if high > low else 0.5

    def ticks(self) -> list[tuple[float, str]]:
        if not self._values:
            return []
        chosen = self._values if len(self._values) <= _CANDIDATES else [self._values[0], self._values[-1]]
        return [(self.place(value), _text(value)) for value in chosen]


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

    return Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, fill=False, edgecolor=_COLLAPSED, linewidth=2, zorder=3)


def _line(trial: TrialView, norm: Normalize) -> dict[str, Any]:
    from matplotlib import colormaps

    if trial.outcome == "collapsed":
        return {"color": _COLLAPSED, "linestyle": "--", "linewidth": 1.2}
    if trial.outcome == "pruned":
        return {"color": _PRUNED, "linestyle": ":", "linewidth": 1.2}
    return {"color": colormaps[_COLOURS](norm(trial.value or 0.0)), "linewidth": 1.8}


def _norm(trials: Sequence[TrialView]) -> Normalize:
    values = [t.value for t in trials if t.outcome == "finished" and t.value is not None] or [0.0, 1.0]
    return Normalize(min(values), max(values))


def _ink(value: float, norm: Normalize) -> str:
    return "white" if math.isfinite(value) and norm(value) < 0.6 else "black"


def _is_log(space: Space, path: str) -> bool:
    return any(parameter.log for parameter in space if parameter.path == path)


def _distance(point: Value, value: Value) -> float:
    numbers = isinstance(point, int | float) and isinstance(value, int | float)
    return abs(point - value) if numbers else float(point != value)  # type: ignore[operator]


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figure(size: tuple[float, float]) -> tuple[Any, Any]:
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _save(figure: Any, path: Path) -> Path:
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=110)
    return path
