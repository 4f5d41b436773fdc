"""A picture of scores on several benchmarks with their intervals.

plot_scores({"math500": estimate, "average": estimate}, "my-model", folder / "scores.png")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from redi_lab.evaluation.metrics import Estimate
from redi_lab.figures.style import GOOD, dress, new_figure, save_figure


def plot_scores(scores: Mapping[str, Estimate], title: str, destination: Path, *, is_difference: bool = False) -> Path:
    """Draw pass@1, or differences of it, with 95 % intervals, one line a score, the first on top, as a PNG."""
    figure, axes = new_figure(7, 1 + 0.45 * len(scores))
    for place, score in enumerate(scores.values()):
        distances = [[score.value - score.ci_low], [score.ci_high - score.value]]
        axes.errorbar(score.value, place, xerr=distances, fmt="o", color=GOOD, capsize=4)
        shown = f"{score.value:+.3f}" if is_difference else f"{score.value:.3f}"
        axes.annotate(shown, (score.value, place), (0, 7), textcoords="offset points", ha="center")
    axes.set_yticks(range(len(scores)), list(scores))
    axes.set_ylim(len(scores) - 0.5, -0.7)
    if is_difference:
        axes.axvline(0, color="black", linewidth=0.8)
    else:
        axes.set_xlim(0, 1)
    axes.set_xlabel(f"{'difference of ' if is_difference else ''}pass@1, 95 % CI over problems")
    dress(axes, title, grid="x")
    return save_figure(figure, destination)
