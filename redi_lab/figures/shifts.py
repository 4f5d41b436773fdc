"""Draws by how much the log-probs of single traces have changed, against where they began."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from redi_lab.figures.style import BAD, GOOD, dress, new_figure, save_figure

Shift = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""For "chosen" and "rejected", mean log-probs of traces before and after, in nats per token."""


def plot_shifts(runs: Mapping[str, Shift], destination: Path) -> Path:
    """A panel for each run and a point for each trace: its change against its initial mean log-prob."""
    figure, axes = new_figure(4.0 * len(runs), 3.4, 1, len(runs), squeeze=False)
    for ax, (label, sides) in zip(axes[0], runs.items(), strict=True):
        for (side, (before, after)), colour in zip(sides.items(), (GOOD, BAD), strict=True):
            ax.scatter(before, np.subtract(after, before), s=14, alpha=0.6, color=colour, label=side, linewidths=0)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set_xlabel("initial LogPS, nats/token")
        ax.set_ylabel("change, nats/token")
        dress(ax, label)
    axes[0][0].legend(frameon=False, fontsize=8)
    return save_figure(figure, destination)
