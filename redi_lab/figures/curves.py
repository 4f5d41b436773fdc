"""Draws the curves of runs: the paper's four panels (accuracy, chosen and rejected log-probs, update norm) and more.

    plot_curves({"REDI α=0.8, lr=1e-3": run_dir / "metrics.jsonl"}, run_dir / "curves.png")
    plot_curves(runs, run_dir / "diagnostics.png", DIAGNOSTICS)

Each event in `events.jsonl` beside the metrics ({"step", "kind", "reason"}: a rollback, a stop) is a line across the
panels in the run's colour; where a run drifts or has collapsed, by `collapse/state`, a bar runs along the bottom.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, final

import numpy as np

from redi_lab.errors import UserError
from redi_lab.figures.panels import PANELS, Panel
from redi_lab.figures.style import COLOURS, dress, literal, new_figure, save_figure
from redi_lab.tracking.journal import Curve, read_curves

EVENTS = "events.jsonl"
_QUIET_EVENTS = ("healthy", "drifting")  # the bar along the bottom shows them
_LINE = {"marker": "o", "linewidth": 1.8, "markersize": 4.5}
_DIAMOND = {"marker": "D", "linestyle": "", "markersize": 8, "markerfacecolor": "white", "markeredgewidth": 1.8}
_MIN_SMOOTHED_POINTS = 40
_SMOOTHING_FRACTION = 0.05
_LEGEND_CHARACTERS = 120
"""In one row of the legend; longer rows would be cut off at the edge of the figure."""
_LEAST_SHARE_SPAN = 0.1
_COLUMNS = 2  # more could not be read where a page is as wide as a laptop's screen
_WIDTH, _PANEL_HEIGHT, _TITLE_HEIGHT, _STEPS_HEIGHT = 11.5, 2.3, 0.32, 0.5  # inches, as all below
_LINE_HEIGHT, _DIGIT_WIDTH, _PAD = 0.22, 0.09, 0.18
_SUPERSCRIPTS = str.maketrans("−0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@final
@dataclass(frozen=True)
class _Run:
    """What is drawn of a run; `events` are steps with what happened there, `decodings` those of curve and diamond."""

    curves: Mapping[str, Curve]
    events: Sequence[tuple[int, str]]
    colour: str
    decodings: tuple[str, str]

    def states(self) -> Iterator[tuple[int, int, int]]:
        """(first step, last step, state) of each stretch that is not healthy."""
        curve = self.curves.get("collapse/state", Curve())
        for state, places in groupby(range(len(curve.values)), key=lambda place: curve.values[place]):
            stretch = list(places)
            if state > 0:
                yield curve.steps[stretch[0]], curve.steps[min(stretch[-1] + 1, len(curve.steps) - 1)], int(state)


def plot_curves(runs: Mapping[str, Path], destination: Path, panels: Sequence[Panel] = PANELS) -> Path:
    """Overlay the curves of runs in one figure; panels that no run has data for are left out.

    Noisy curves of 40 points or more are drawn pale under their moving average over a twentieth of their length.

    Args:
        runs: Label to `metrics.jsonl`.
        destination: PNG or PDF to write; its folder is created.
        panels: What to draw.

    Returns:
        `destination`.

    Raises:
        UserError: If there is no run, a file is missing or damaged, or no run has any of the plotted metrics.
    """
    read = {label: _read_run(path, COLOURS[index % len(COLOURS)]) for index, (label, path) in enumerate(runs.items())}
    drawn = [panel for panel in panels if any(_choose(panel, run.curves) for run in read.values())]
    if not drawn:
        files = ", ".join(map(str, runs.values())) or "no run given"
        raise UserError(f"nothing to plot: none of the known metrics, such as train/loss, is in {files}")
    return save_figure(_figure(drawn, read), destination)


def _read_run(path: Path, colour: str) -> _Run:
    if not path.is_file():
        raise UserError(f"{path} does not exist: the run has logged no metrics")
    return _Run(read_curves(path), _read_events(path.with_name(EVENTS)), colour, _decodings(path.parent))


def _read_events(path: Path) -> list[tuple[int, str]]:
    events = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.is_file() else [], start=1):
        try:
            row = json.loads(line)
            events.append((int(row["step"]), str(row["kind"])))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}:{number}: not an event with step and kind ({error!r})") from error
    return events


def _decodings(folder: Path) -> tuple[str, str]:
    """How accuracy was measured during training and at the end: "T 0.6, 1 sample, 200 problems"; "" where unknown."""
    try:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "", ""  # a run that is still in training
    development = (summary.get("data") or {}).get("development") or {}
    protocol = (summary.get("evaluation") or {}).get("protocol") or {}
    num_problems = (summary.get("metrics") or {}).get("num_problems") or {}
    return (
        _decoding(development.get("sampling"), development.get("num_problems")),
        _decoding(protocol.get("sampling"), num_problems.get("value")),
    )


def _decoding(sampling: Mapping[str, Any] | None, num_problems: float | None) -> str:
    if not sampling:
        return ""
    samples, temperature = sampling["num_samples"], sampling["temperature"]
    drawn = f"T {temperature:g}, {samples} sample{'s' * (samples > 1)}" if temperature else "greedy"
    return drawn if num_problems is None else f"{drawn}, {num_problems:g} problems"


def smooth(values: Sequence[float]) -> list[float]:
    """At each point the least-squares line through a twentieth of the points (at least three) around it.

    In the middle that is the centred moving average. At the ends, where nothing lies on the other side, the line goes
    on: a mean of ever fewer points would end in the last one, noise and all. NaN is skipped; a window without a finite
    value gives NaN.
    """
    curve = np.asarray(values, dtype=np.float64)
    reach = max(1, round(len(curve) * _SMOOTHING_FRACTION / 2))
    smoothed = []
    for centre in range(len(curve)):
        start = max(0, min(centre - reach, len(curve) - 2 * reach - 1))
        window = curve[start : start + 2 * reach + 1]
        x, y = np.flatnonzero(np.isfinite(window)) + float(start - centre), window[np.isfinite(window)]
        from_mean = x - x.mean() if len(x) else x
        slope = from_mean @ y / (from_mean @ from_mean) if len(x) > 1 else 0.0
        smoothed.append(float(y.mean() - slope * x.mean()) if len(x) else math.nan)
    return smoothed


def _choose(panel: Panel, curves: Mapping[str, Curve]) -> Curve | None:
    found = (curves[name] for name in panel.metrics if name in curves)
    return next((curve for curve in found if any(map(math.isfinite, curve.values))), None)


def _figure(panels: Sequence[Panel], runs: Mapping[str, _Run]) -> Any:
    rows = math.ceil(len(panels) / _COLUMNS)
    figure, grid = new_figure(_WIDTH, rows, rows, _COLUMNS, layout=None, squeeze=False, sharex=True)
    axes = grid.ravel()
    handles: dict[str, Any] = {}
    for panel, ax in zip(panels, axes, strict=False):
        _dress(ax, panel)
        for level, (label, run) in enumerate(runs.items()):
            curve = _choose(panel, run.curves)
            if curve is not None:
                handles[label] = _draw(ax, curve, run, panel)
            _draw_events(ax, run, level, is_named=panel is panels[0])
        if panel.final:
            _name_decodings(ax, panel, list(runs.values()))
        _set_limits(ax, panel)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    names = [literal(label) for label in handles]
    in_a_row = max(1, min(3, _LEGEND_CHARACTERS // max(map(len, names))))
    figure.legend(list(handles.values()), names, loc="upper center", ncols=in_a_row, frameon=False)
    legend_lines = math.ceil(len(names) / in_a_row) * (1 + max(name.count("\n") for name in names))
    has_states = any(any(run.states()) for run in runs.values())
    note = "bar along the bottom: drifting (pale), collapsed (full)" if has_states else ""
    _lay_out(figure, axes[: len(panels)], legend_lines, note)
    return figure


def _lay_out(figure: Any, axes: Sequence[Any], legend_lines: int, note: str) -> None:
    """Set height and margins from what is known of the content, and write a note at the bottom.

    matplotlib's layout engines measure every text first, which takes longer than drawing.
    """
    widths = [_width_of_numbers(ax) for ax in axes]
    left = max(widths) + _LINE_HEIGHT + _PAD
    width = (_WIDTH - _PAD) / _COLUMNS - left
    top, bottom = _LINE_HEIGHT * (legend_lines + 0.5) + _TITLE_HEIGHT, _STEPS_HEIGHT + _LINE_HEIGHT * bool(note)
    rows, between = math.ceil(len(axes) / _COLUMNS), _STEPS_HEIGHT + _TITLE_HEIGHT
    height = top + rows * _PANEL_HEIGHT + (rows - 1) * between + bottom
    figure.set_figheight(height)
    figure.subplots_adjust(
        left=left / _WIDTH,
        right=1 - _PAD / _WIDTH,
        bottom=bottom / height,
        top=1 - top / height,
        wspace=left / width,
        hspace=between / _PANEL_HEIGHT,
    )
    for ax, numbers in zip(axes, widths, strict=True):
        ax.xaxis.set_label_coords(0.5, -0.26 / _PANEL_HEIGHT)
        ax.yaxis.set_label_coords(-(numbers + _PAD) / width, 0.5)
    figure.text(0.5, 0.08 / height, note, ha="center", fontsize=9, color="#555555")


def _width_of_numbers(ax: Any) -> float:
    """Width in inches of the numbers of the vertical axis; their common power of ten goes to its label."""
    formatter = ax.yaxis.get_major_formatter()
    longest = max(map(len, formatter.format_ticks(ax.yaxis.get_majorticklocs())))
    if power := formatter.get_offset():
        ax.yaxis.get_offset_text().set_visible(False)
        ax.set_ylabel(f"{ax.get_ylabel()}, ×10{power.removeprefix('1e').translate(_SUPERSCRIPTS)}")
    return longest * _DIGIT_WIDTH


def _dress(ax: Any, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    dress(ax, panel.title)
    ax.set_xlabel("optimizer step")
    ax.tick_params(labelbottom=True)
    ax.set_ylabel(panel.unit)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
    ax.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 2.5, 5, 10]))
    style = {"style": "plain"} if panel.is_share else {"style": "sci", "scilimits": (-3, 4)}
    ax.ticklabel_format(axis="y", useOffset=False, **style)


def _set_limits(ax: Any, panel: Panel) -> None:
    """Room around a single point or a constant, which matplotlib would magnify; shares stay between 0 and 1."""
    low, high = ax.dataLim.intervaly
    least = _LEAST_SHARE_SPAN if panel.is_share else (abs(high) or 1.0) if low == high else 0.0
    grow = max(least - (high - low), 0.0) / 2
    low, high = low - grow, high + grow
    if panel.is_share:
        shift = max(0.0, -low) - max(0.0, high - 1.0)
        low, high = low + shift, high + shift
    margin = 0.05 * (high - low)
    if math.isfinite(margin) and margin > 0:
        ax.set_ylim(low - margin, high + margin)


def _draw(ax: Any, curve: Curve, run: _Run, panel: Panel) -> Any:
    """Draw a curve with the dotted companion, the interval and the final value of its panel; its line."""
    values, colour = _with_gaps(curve), run.colour
    is_long = len(values) >= _MIN_SMOOTHED_POINTS
    if is_long and panel.is_noisy:
        ax.plot(curve.steps, values, color=colour, alpha=0.25, linewidth=0.9)
        values = smooth(values)
    (line,) = ax.plot(curve.steps, values, color=colour, **_LINE | ({"marker": None} if is_long else {}))
    if panel.dotted in run.curves:
        dotted = run.curves[panel.dotted]
        ax.plot(dotted.steps, _with_gaps(dotted), color=colour, linewidth=1.4, linestyle=":")
    if panel.band and all(name in run.curves for name in panel.band):
        low, high = (run.curves[name] for name in panel.band)
        ax.fill_between(low.steps, low.values, high.values, color=colour, alpha=0.1, linewidth=0)
    if panel.final in run.curves:
        end = run.curves[panel.final]
        ax.plot(end.steps[-1:], end.values[-1:], color=colour, zorder=4, **_DIAMOND)
    return line


def _name_decodings(ax: Any, panel: Panel, runs: Sequence[_Run]) -> None:
    """Say how the curve and the diamond were measured: a score means nothing without its decoding."""
    from matplotlib.lines import Line2D

    rows: tuple[tuple[str, bool, dict[str, Any]], ...] = (
        ("during training", any(_choose(panel, run.curves) for run in runs), _LINE),
        ("final evaluation", any(panel.final in run.curves for run in runs), _DIAMOND),
    )
    handles = []
    for index, (name, is_drawn, style) in enumerate(rows):
        known = dict.fromkeys(run.decodings[index] for run in runs if run.decodings[index])
        if is_drawn:
            label = f"{name}: {' or '.join(known)}" if known else name
            handles.append(Line2D([], [], color="#555555", label=label, **style))
    ax.legend(handles=handles, frameon=False, fontsize=8, loc="best")


def _draw_events(ax: Any, run: _Run, level: int, *, is_named: bool) -> None:
    """Lines for what happened, and a bar for a state that is not healthy; bars of several runs are stacked."""
    across = ax.get_xaxis_transform()  # steps to the right, from 0 to 1 upwards
    for step, kind in run.events:
        if kind in _QUIET_EVENTS:
            continue
        ax.axvline(step, color=run.colour, linewidth=1.1, linestyle="--", alpha=0.8)
        if is_named:
            options = {"rotation": 90, "ha": "right", "va": "top", "fontsize": 8, "color": run.colour}
            ax.text(step, 0.98, literal(kind), transform=across, **options)
    for first, last, state in run.states():
        height, alpha = 0.012 + 0.024 * level, 1.0 if state == 2 else 0.35
        ax.plot([first, last], [height, height], color=run.colour, alpha=alpha, linewidth=4, transform=across)


def _with_gaps(curve: Curve) -> list[float]:
    # Not a number and infinite values are gaps: a collapse should end a curve, not flatten the panel.
    return [value if math.isfinite(value) else math.nan for value in curve.values]
