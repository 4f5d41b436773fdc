"""Draws the curves of runs: the paper's four panels (accuracy, chosen and rejected log-probs, update norm) and more.

    plot_curves({"REDI α=0.8, lr=1e-3": run_dir / "metrics.jsonl"}, run_dir / "curves.png")

matplotlib's object-oriented interface is used throughout: no global state, no display.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from redi_lab.errors import UserError
from redi_lab.tracking.journal import Curve, read_curves

# Okabe and Ito's palette: distinct for colour-blind readers, too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
_COLUMNS = 2
_MIN_SMOOTHED_POINTS = 40
_SMOOTHING_FRACTION = 0.05


@final
@dataclass(frozen=True)
class Panel:
    """One plot of the figure.

    Attributes:
        title: Heading.
        unit: Label of the vertical axis.
        metrics: Names to look for; every run draws the first one that it has.
        is_noisy: Whether long curves are smoothed; otherwise the points are the curve.
    """

    title: str
    unit: str
    metrics: tuple[str, ...]
    is_noisy: bool = True


PANELS = (
    Panel("Accuracy", "pass@1", ("eval/pass_at_1", "val/pass_at_1"), is_noisy=False),
    Panel("Chosen LogPS", "nats/token", ("train/mean_logps/chosen", "val/mean_logps/chosen")),
    Panel("Rejected LogPS", "nats/token", ("train/mean_logps/rejected", "val/mean_logps/rejected")),
    Panel("Update norm", "‖Δθ‖₂ per step", ("train/update_norm",)),
    Panel("Loss", "loss", ("train/loss",)),
    Panel("Gradient norm", "‖∇θ‖₂", ("train/grad_norm",)),
    Panel("Learning rate", "learning rate", ("train/lr",), is_noisy=False),
)


def plot_curves(runs: Mapping[str, Path], destination: Path) -> Path:
    """Overlay the curves of runs in one PNG; panels that no run has data for are left out.

    Noisy curves of 40 points or more are drawn pale under their centred moving average (a twentieth of their length).

    Args:
        runs: Label to `metrics.jsonl`.
        destination: PNG to write; its folder is created.

    Returns:
        `destination`.

    Raises:
        UserError: If there is no run, a file is missing or damaged, or no run has any of the plotted metrics.
    """
    curves = {label: _read(path) for label, path in runs.items()}
    panels = [panel for panel in PANELS if any(_choose(panel, run) for run in curves.values())]
    if not panels:
        files = ", ".join(str(path) for path in runs.values()) or "no run given"
        raise UserError(f"nothing to plot: none of the known metrics, such as train/loss, is in {files}")
    figure = _figure(panels, curves)
    destination.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(destination, format="png", dpi=110)
    return destination


def smooth(values: Sequence[float]) -> list[float]:
    """Centred moving average over a twentieth of the points (at least three), shorter at the ends; NaN is skipped.

    Args:
        values: The curve. A window without a finite value gives NaN.

    Returns:
        As many values.
    """
    reach = max(1, round(len(values) * _SMOOTHING_FRACTION / 2))
    averages = []
    for centre in range(len(values)):
        around = min(reach, centre, len(values) - 1 - centre)  # symmetric, so that the ends are not pulled inwards
        window = [value for value in values[centre - around : centre + around + 1] if math.isfinite(value)]
        averages.append(sum(window) / len(window) if window else math.nan)
    return averages


def _read(path: Path) -> dict[str, Curve]:
    if not path.is_file():
        raise UserError(f"{path} does not exist: the run has logged no metrics")
    return read_curves(path)


def _choose(panel: Panel, run: Mapping[str, Curve]) -> Curve | None:
    found = (run[name] for name in panel.metrics if name in run)
    return next((curve for curve in found if any(math.isfinite(value) for value in curve.values)), None)


def _figure(panels: Sequence[Panel], curves: Mapping[str, Mapping[str, Curve]]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = math.ceil(len(panels) / _COLUMNS)
    figure = Figure(figsize=(11.5, 0.9 + 2.9 * rows), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, _COLUMNS, squeeze=False, sharex=True).ravel()
    handles: dict[str, Any] = {}
    for panel, ax in zip(panels, axes, strict=False):
        _dress(ax, panel)
        for index, (label, run) in enumerate(curves.items()):
            curve = _choose(panel, run)
            if curve is not None:
                handles[label] = _draw(ax, curve, _COLOURS[index % len(_COLOURS)], panel)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    names = [_literal(label) for label in handles]
    figure.legend(list(handles.values()), names, loc="outside upper center", ncols=min(len(names), 3), frameon=False)
    return figure


def _literal(label: str) -> str:
    # To matplotlib, a dollar sign starts mathematical text and a leading underscore hides the entry.
    return (" " if label.startswith("_") else "") + label.replace("$", r"\$")


def _dress(ax: Any, panel: Panel) -> None:
    ax.set_title(panel.title, loc="left", fontsize=11, fontweight="bold")
    ax.set_xlabel("optimizer step")
    ax.tick_params(labelbottom=True)
    ax.set_ylabel(panel.unit)
    ax.grid(color="#e6e6e6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.ticklabel_format(axis="y", style="sci", scilimits=(-2, 4), useMathText=True)


def _draw(ax: Any, curve: Curve, colour: str, panel: Panel) -> Any:
    # Not a number and infinite values are gaps: a collapse should end a curve, not flatten the panel.
    values = [value if math.isfinite(value) else math.nan for value in curve.values]
    if len(values) >= _MIN_SMOOTHED_POINTS and panel.is_noisy:
        ax.plot(curve.steps, values, color=colour, alpha=0.25, linewidth=0.9)
        return ax.plot(curve.steps, smooth(values), color=colour, linewidth=1.8)[0]
    marker = "o" if len(values) < _MIN_SMOOTHED_POINTS else None
    return ax.plot(curve.steps, values, color=colour, linewidth=1.8, marker=marker, markersize=4.5)[0]
