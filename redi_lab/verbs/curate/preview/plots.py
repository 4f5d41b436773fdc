"""The plots of a data preview: lengths of right and wrong traces, reasons of drops, and the mix of sources.

    lengths_figure(right, wrong, "tokens", folder / "lengths.png")

Each function writes one PNG and returns its path. matplotlib's object-oriented interface: no global state, no display.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from redi_lab.files import replacing
from redi_lab.verbs.curate.preview.marks import visible

RIGHT_COLOUR, WRONG_COLOUR, NEUTRAL_COLOUR = "#0072B2", "#D55E00", "#8A94A3"  # after Okabe and Ito: safe for all eyes
_INK, _FAINT = "#1f2933", "#e4e7eb"
_WIDTH = 8.5  # inches
_MOST_BINS = 40
_MOST_BARS = 15
_LABEL_WIDTH = 34
_OTHERS = "all others"


def lengths_figure(right: Sequence[int], wrong: Sequence[int], unit: str, destination: Path) -> Path:
    """Histograms of the lengths of right and of wrong traces on a logarithmic axis, with their medians.

    Args:
        right: lengths of the demonstrations.
        wrong: lengths of the rejected traces.
        unit: tokens or characters.
        destination: PNG to write.
    """
    from matplotlib.ticker import LogLocator, NullLocator

    figure = _figure(_WIDTH, 3.5)
    ax = figure.subplots()
    everything = np.maximum(np.array([*right, *wrong], dtype=np.float64), 1)
    low, high = (everything.min(), everything.max()) if len(everything) else (1.0, 10.0)
    number = int(np.clip(2 * np.sqrt(len(everything)), 8, _MOST_BINS))
    bins = np.geomspace(low * 0.95, high * 1.05 + 1, number + 1)
    series = (("right", right, RIGHT_COLOUR, "-"), ("wrong", wrong, WRONG_COLOUR, "--"))
    for name, lengths, colour, line in series:
        if not len(lengths):
            continue
        values = np.maximum(np.array(lengths, dtype=np.float64), 1)
        median = float(np.median(values))
        shares = np.full(len(values), 100 / len(values))
        label = f"{name}: {len(values):,}, median {median:,.0f}"
        ax.hist(values, bins=bins, weights=shares, histtype="stepfilled", color=colour, alpha=0.28)
        ax.hist(values, bins=bins, weights=shares, histtype="step", color=colour, linewidth=1.6, label=label)
        ax.axvline(median, color=colour, linewidth=1.6, linestyle=line)
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(lambda value, _: f"{value:,.0f}")
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(f"{unit} (logarithmic; vertical lines: medians)")
    ax.set_ylabel("% of traces")
    _dress(ax, "Lengths of right and wrong traces", grid="y")
    if len(everything):
        ax.legend(frameon=False)
    return _save(figure, destination)


def drops_figure(groups: Mapping[str, Mapping[str, int]], totals: Mapping[str, int], destination: Path) -> Path:
    """Bars of why rows and generations were not used, one panel for each group that has any.

    Args:
        groups: title of a panel → reason → count.
        totals: title of a panel → what all counts are parts of.
        destination: PNG to write.
    """
    shown = {title: _folded(counts, _largest(counts)) for title, counts in groups.items() if counts}
    bars = [len(counts) for counts in shown.values()] or [1]
    figure = _figure(_WIDTH, 0.55 * len(bars) + 0.4 * sum(bars) + 0.2)
    axes = figure.subplots(len(bars), 1, squeeze=False, height_ratios=bars).ravel()
    if not shown:
        axes[0].text(0.5, 0.5, "Nothing was dropped.", ha="center", va="center", color=_INK)
        axes[0].set_axis_off()
    for ax, (title, counts) in zip(axes, shown.items(), strict=False):
        total = totals.get(title, 0)
        _bars(ax, counts, {name: _share(number, total) for name, number in counts.items()})
        _dress(ax, f"{title} ({sum(counts.values()):,} of {total:,})", grid=None)
    return _save(figure, destination)


def sources_figure(demonstrations: Mapping[str, int], pairs: Mapping[str, int], destination: Path) -> Path:
    """Bars of how many demonstrations and pairs each source gave.

    Args:
        demonstrations: source → count.
        pairs: source → count.
        destination: PNG to write.
    """
    both = {name: demonstrations.get(name, 0) + pairs.get(name, 0) for name in {**demonstrations, **pairs}}
    largest = _largest(both)
    folded = [_folded(counts, largest) for counts in (demonstrations, pairs)]
    names = list(dict.fromkeys(name for counts in folded for name in counts))
    figure = _figure(_WIDTH, 0.8 + 0.46 * max(len(names), 1))
    ax = figure.subplots()
    places = np.arange(len(names), dtype=np.float64)
    widest = max([1, *folded[0].values(), *folded[1].values()])
    series = ((-0.19, "demonstrations", RIGHT_COLOUR), (0.19, "pairs", NEUTRAL_COLOUR))
    for (shift, label, colour), counts in zip(series, folded, strict=True):
        total = sum(counts.values())
        values = [counts.get(name, 0) for name in names]
        ax.barh(places + shift, values, height=0.34, color=colour, label=f"{label}: {total:,}")
        for place, value in zip(places, values, strict=True):
            note = _share(value, total) if value else ""
            ax.text(value + 0.01 * widest, place + shift, note, va="center", fontsize=8, color=_INK)
    ax.set_yticks(places, [_label(name) for name in names])
    ax.set_xlim(0, 1.25 * widest)
    ax.set_ylim(max(len(places), 1) - 0.5, -0.5)
    _dress(ax, "Sources", grid=None)
    ax.legend(frameon=False, ncols=2, loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0.2)
    return _save(figure, destination)


def _largest(counts: Mapping[str, int]) -> list[str]:
    return sorted(counts, key=lambda name: (-counts[name], name))[:_MOST_BARS]


def _folded(counts: Mapping[str, int], names: Sequence[str]) -> dict[str, int]:
    """The counts of `names`, in that order, and of all others as one."""
    folded = {name: counts.get(name, 0) for name in names}
    others = [number for name, number in counts.items() if name not in folded]
    return folded | {_OTHERS: sum(others)} if others else folded


def _bars(ax: Any, counts: Mapping[str, int], notes: Mapping[str, str]) -> None:
    places = np.arange(len(counts), dtype=np.float64)
    ax.barh(places, list(counts.values()), height=0.62, color=NEUTRAL_COLOUR)
    widest = max(counts.values())
    for place, (name, number) in zip(places, counts.items(), strict=True):
        ax.text(number + 0.01 * widest, place, notes[name], va="center", fontsize=9, color=_INK)
    ax.set_yticks(places, [_label(name) for name in counts])
    ax.set_xlim(0, 1.25 * widest)
    ax.set_ylim(max(len(places), 1) - 0.5, -0.5)


def _share(number: int, total: int) -> str:
    return f"{number:,}  ({100 * number / total:.1f} %)" if total else f"{number:,}"


def _label(name: str) -> str:
    return textwrap.fill(textwrap.shorten(visible(name), 2 * _LABEL_WIDTH, placeholder=" …"), _LABEL_WIDTH)


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _dress(ax: Any, title: str, grid: str | None) -> None:
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=_INK)
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color("#9aa5b1")
    ax.tick_params(colors=_INK, labelsize=9)
    ax.set_axisbelow(True)
    if grid is not None:
        ax.grid(axis=grid, color=_FAINT, linewidth=0.8)
    else:
        ax.set_xticks([])
        ax.spines["bottom"].set_visible(False)
    for label in ax.get_yticklabels():
        label.set_parse_math(False)  # a dollar sign in a reason or a source is a dollar sign


def _save(figure: Any, destination: Path) -> Path:
    destination.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # drawn as a box: no harm
        with replacing(destination) as partial:
            figure.savefig(partial, format="png", dpi=130)
    return destination
