"""Draws the curves of runs: the paper's four panels (accuracy, chosen and rejected log-probs, update norm) and more.

    plot_curves({"REDI α=0.8, lr=1e-3": run_dir / "metrics.jsonl"}, run_dir / "curves.png")
    plot_curves(runs, run_dir / "diagnostics.png", DIAGNOSTICS)

What `events.jsonl` beside the metrics tells ({"step", "kind", "reason"}: a rollback, a stop) is a line across the
panels in the run's colour; where a run drifts or has collapsed, by `collapse/state`, a bar runs along the bottom.

matplotlib's object-oriented interface is used throughout: no global state, no display.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from redi_lab.errors import UserError
from redi_lab.files import replacing
from redi_lab.tracking.journal import Curve, read_curves

# Okabe and Ito's palette: distinct for colour-blind readers, too.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
EVENTS = "events.jsonl"
_QUIET_EVENTS = ("healthy", "drifting")  # the bar along the bottom tells them
_DIAMOND = {"marker": "D", "linestyle": "", "markersize": 8, "markerfacecolor": "white", "markeredgewidth": 1.8}
_MIN_SMOOTHED_POINTS = 40
_SMOOTHING_FRACTION = 0.05
_LEGEND_CHARACTERS = 120
"""Of one row of the legend; longer ones would be cut off at the edge of the figure."""
_LEAST_SHARE_SPAN = 0.1


@final
@dataclass(frozen=True)
class Panel:
    """One plot of the figure.

    Attributes:
        title: Heading.
        unit: Label of the vertical axis.
        metrics: Names to look for; every run draws the first one that it has.
        is_noisy: Whether long curves are smoothed; otherwise the points are the curve.
        dotted: A metric drawn dotted beside it.
        band: Metrics of an interval around it.
        final: A metric whose last value is marked with a diamond.
        is_share: Whether the values lie between 0 and 1: the axis stays there, and is plain.
    """

    title: str
    unit: str
    metrics: tuple[str, ...]
    is_noisy: bool = True
    dotted: str = ""
    band: tuple[str, str] | None = None
    final: str = ""
    is_share: bool = False


PANELS = (
    Panel(
        "Accuracy (band: 95 % CI)",
        "pass@1",
        ("val/pass_at_1", "eval/pass_at_1"),
        is_noisy=False,
        band=("val/pass_at_1_ci_low", "val/pass_at_1_ci_high"),
        final="eval/pass_at_1",
        is_share=True,
    ),
    Panel(
        "Chosen LogPS (dotted: probes)",
        "nats/token",
        ("train/mean_logps/chosen", "val/mean_logps/chosen"),
        dotted="probe/chosen_mean_logps",
    ),
    Panel(
        "Rejected LogPS (dotted: probes)",
        "nats/token",
        ("train/mean_logps/rejected", "val/mean_logps/rejected"),
        dotted="probe/rejected_mean_logps",
    ),
    Panel("Update norm", "‖Δθ‖₂ per step", ("train/update_norm",)),
)
"""The paper's four."""
DIAGNOSTICS = (
    Panel("Loss", "loss", ("train/loss",)),
    Panel("Gradient norm", "‖∇θ‖₂", ("train/grad_norm",)),
    Panel("Gradient norm of the chosen term", "‖∇θ‖₂", ("train/grad_norm_chosen",), is_noisy=False),
    Panel("Gradient norm of the rejected term", "‖∇θ‖₂", ("train/grad_norm_rejected",), is_noisy=False),
    Panel("Cosine of the two terms", "−1: they cancel", ("train/grad_cosine",), is_noisy=False),
    Panel("Likelihood displacement", "nats/token", ("probe/displacement",), is_noisy=False),
    Panel("Least likely token of the probes", "nats", ("probe/min_token_logp",), is_noisy=False),
    Panel(
        "Probe tokens less likely than at the start", "share", ("probe/fallen_share",), is_noisy=False, is_share=True
    ),
    Panel("Entropy at the probes", "nats", ("probe/entropy", "train/entropy"), is_noisy=False),
    Panel("End of turn where the probes end", "probability", ("probe/eos_probability",), is_noisy=False, is_share=True),
    Panel("Generation length", "tokens", ("val/mean_tokens",), is_noisy=False),
    Panel("Truncated generations", "share", ("val/truncation_rate",), is_noisy=False, is_share=True),
    Panel("Learning rate", "learning rate", ("train/lr",), is_noisy=False),
)
"""What explains the paper's four."""


@final
@dataclass(frozen=True)
class Event:
    """Something that happened to a run: a line of its `events.jsonl`."""

    step: int
    kind: str
    reason: str


@final
@dataclass(frozen=True)
class _Run:
    curves: Mapping[str, Curve]
    events: Sequence[Event]
    colour: str
    decodings: tuple[str, str]

    def states(self) -> Iterator[tuple[int, int, int]]:
        """(first step, last step, state) of each stretch that is not healthy."""
        curve = self.curves.get("collapse/state", Curve())
        start = 0
        for index, value in enumerate(curve.values):
            is_last = index + 1 == len(curve.values)
            if is_last or curve.values[index + 1] != value:
                if value > 0:
                    yield curve.steps[start], curve.steps[index if is_last else index + 1], int(value)
                start = index + 1


def plot_curves(runs: Mapping[str, Path], destination: Path, panels: Sequence[Panel] = PANELS) -> Path:
    """Overlay the curves of runs in one PNG; panels that no run has data for are left out.

    Noisy curves of 40 points or more are drawn pale under their moving average over a twentieth of their length.

    Args:
        runs: Label to `metrics.jsonl`.
        destination: PNG to write; its folder is created.
        panels: What to draw.

    Returns:
        `destination`.

    Raises:
        UserError: If there is no run, a file is missing or damaged, or no run has any of the plotted metrics.
    """
    read = {
        label: _Run(
            _read(path), read_events(path.with_name(EVENTS)), _COLOURS[index % len(_COLOURS)], _decodings(path.parent)
        )
        for index, (label, path) in enumerate(runs.items())
    }
    drawn = [panel for panel in panels if any(_choose(panel, run.curves) for run in read.values())]
    if not drawn:
        files = ", ".join(str(path) for path in runs.values()) or "no run given"
        raise UserError(f"nothing to plot: none of the known metrics, such as train/loss, is in {files}")
    figure = _figure(drawn, read)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with replacing(destination) as partial:
        figure.savefig(partial, format="png", dpi=110)
    return destination


def read_events(path: Path) -> list[Event]:
    """The events of a run in their order, none where the file is absent.

    Raises:
        UserError: If a line is no event.
    """
    events = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.is_file() else [], start=1):
        try:
            row = json.loads(line)
            events.append(Event(int(row["step"]), str(row["kind"]), str(row["reason"])))
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}:{number}: not an event of step, kind and reason ({error!r})") from error
    return events


def _decodings(folder: Path) -> tuple[str, str]:
    """How accuracy was measured during training and at the end: "T 0.6, 1 sample, 200 problems"; "" where not known."""
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
    """Straight line fitted to a twentieth of the points (at least three) around each; NaN is skipped.

    In the middle that is the centred moving average. At the ends, where nothing lies on the other side, the line goes
    on: a mean of ever fewer points would end in the last one, noise and all.

    Args:
        values: The curve. A window without a finite value gives NaN.

    Returns:
        As many values.
    """
    reach = max(1, round(len(values) * _SMOOTHING_FRACTION / 2))
    smoothed = []
    for centre in range(len(values)):
        start = max(0, min(centre - reach, len(values) - 2 * reach - 1))
        window = enumerate(values[start : start + 2 * reach + 1], start=start - centre)
        smoothed.append(_line_at_zero([(at, value) for at, value in window if math.isfinite(value)]))
    return smoothed


def _line_at_zero(points: Sequence[tuple[int, float]]) -> float:
    """Value at 0 of the least-squares line through points; their mean where they all lie at one place."""
    if not points:
        return math.nan
    x, y = sum(at for at, _ in points) / len(points), sum(value for _, value in points) / len(points)
    spread = sum((at - x) ** 2 for at, _ in points)
    slope = sum((at - x) * (value - y) for at, value in points) / spread if spread else 0.0
    return float(y - slope * x)


def _read(path: Path) -> dict[str, Curve]:
    if not path.is_file():
        raise UserError(f"{path} does not exist: the run has logged no metrics")
    return read_curves(path)


def _choose(panel: Panel, run: Mapping[str, Curve]) -> Curve | None:
    found = (run[name] for name in panel.metrics if name in run)
    return next((curve for curve in found if any(math.isfinite(value) for value in curve.values)), None)


def _figure(panels: Sequence[Panel], runs: Mapping[str, _Run]) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 2  # of which the text can still be read where a page is as wide as a laptop's screen
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(5.75 * columns, 0.9 + 2.9 * rows), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    handles: dict[str, Any] = {}
    for panel, ax in zip(panels, axes, strict=False):
        _dress(ax, panel)
        for level, (label, run) in enumerate(runs.items()):
            curve = _choose(panel, run.curves)
            if curve is not None:
                handles[label] = _draw(ax, curve, run.colour, panel)
                _draw_around(ax, run, panel)
            _draw_events(ax, run, level, is_named=panel is panels[0])
        if panel.final:
            _name_decodings(ax, panel, list(runs.values()))
        _set_limits(ax, panel)
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    names = [_literal(label) for label in handles]
    in_a_row = max(1, min(3, _LEGEND_CHARACTERS // max(map(len, names))))
    figure.legend(list(handles.values()), names, loc="outside upper center", ncols=in_a_row, frameon=False)
    if any(any(run.states()) for run in runs.values()):
        figure.supxlabel("bar along the bottom: drifting (pale), collapsed (full)", fontsize=9, color="#555555")
    return figure


def _literal(label: str) -> str:
    # To matplotlib, a dollar sign starts mathematical text and a leading underscore hides the entry.
    return (" " if label.startswith("_") else "") + label.replace("$", r"\$")


def _dress(ax: Any, panel: Panel) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.set_title(panel.title, loc="left", fontsize=11, fontweight="bold")
    ax.set_xlabel("optimizer step")
    ax.tick_params(labelbottom=True)
    ax.set_ylabel(panel.unit)
    ax.grid(color="#e6e6e6", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if panel.is_share:
        ax.ticklabel_format(axis="y", style="plain", useOffset=False)
    else:
        ax.ticklabel_format(axis="y", style="sci", scilimits=(-3, 4), useMathText=True)


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


def _draw(ax: Any, curve: Curve, colour: str, panel: Panel) -> Any:
    values = _with_gaps(curve)
    if len(values) >= _MIN_SMOOTHED_POINTS and panel.is_noisy:
        ax.plot(curve.steps, values, color=colour, alpha=0.25, linewidth=0.9)
        return ax.plot(curve.steps, smooth(values), color=colour, linewidth=1.8)[0]
    marker = "o" if len(values) < _MIN_SMOOTHED_POINTS else None
    return ax.plot(curve.steps, values, color=colour, linewidth=1.8, marker=marker, markersize=4.5)[0]


def _draw_around(ax: Any, run: _Run, panel: Panel) -> None:
    """The dotted companion, the interval and the final value of a panel's curve, where the run has them."""
    if panel.dotted in run.curves:
        curve = run.curves[panel.dotted]
        ax.plot(curve.steps, _with_gaps(curve), color=run.colour, linewidth=1.4, linestyle=":")
    if panel.band is not None and all(name in run.curves for name in panel.band):
        low, high = (run.curves[name] for name in panel.band)
        ax.fill_between(low.steps, low.values, high.values, color=run.colour, alpha=0.1, linewidth=0)
    if panel.final in run.curves:
        curve = run.curves[panel.final]
        ax.plot(curve.steps[-1:], curve.values[-1:], color=run.colour, zorder=4, **_DIAMOND)


def _name_decodings(ax: Any, panel: Panel, runs: Sequence[_Run]) -> None:
    """Say how the curve and the diamond were measured: a score means nothing without its decoding."""
    from matplotlib.lines import Line2D

    found = (any(_choose(panel, run.curves) for run in runs), any(panel.final in run.curves for run in runs))
    rows: tuple[tuple[str, dict[str, Any]], ...] = (
        ("during training", {"marker": "o", "linewidth": 1.8, "markersize": 4.5}),
        ("final evaluation", _DIAMOND),
    )
    handles = []
    for index, ((name, style), is_there) in enumerate(zip(rows, found, strict=True)):
        known = dict.fromkeys(run.decodings[index] for run in runs if run.decodings[index])
        if is_there:
            label = f"{name}: {' or '.join(known)}" if known else name
            handles.append(Line2D([], [], color="#555555", label=label, **style))
    ax.legend(handles=handles, frameon=False, fontsize=8, loc="best")


def _draw_events(ax: Any, run: _Run, level: int, *, is_named: bool) -> None:
    """Lines for what happened, and a bar for a state that is not healthy; bars of several runs lie on each other."""
    across = ax.get_xaxis_transform()  # steps to the right, from 0 to 1 upwards
    for event in (event for event in run.events if event.kind not in _QUIET_EVENTS):
        ax.axvline(event.step, color=run.colour, linewidth=1.1, linestyle="--", alpha=0.8)
        if is_named:
            options = {"rotation": 90, "ha": "right", "va": "top", "fontsize": 8, "color": run.colour}
            ax.text(event.step, 0.98, _literal(event.kind), transform=across, **options)
    for first, last, state in run.states():
        height, alpha = 0.012 + 0.024 * level, 1.0 if state == 2 else 0.35
        ax.plot([first, last], [height, height], color=run.colour, alpha=alpha, linewidth=4, transform=across)


def _with_gaps(curve: Curve) -> list[float]:
    # Not a number and infinite values are gaps: a collapse should end a curve, not flatten the panel.
    return [value if math.isfinite(value) else math.nan for value in curve.values]
