"""A picture of scores on several benchmarks with their intervals, drawn without a display.

plot_scores({"math500": estimate, "average": estimate}, "my-model", folder / "scores.png")
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from redi_lab.evaluation.metrics import Estimate


def plot_scores(scores: Mapping[str, Estimate], title: str, destination: Path, *, is_difference: bool = False) -> Path:
    """Draw pass@1, or differences of it, with 95 % intervals, one line a score, the first on top.

    Args:
        scores: by name.
        title: what was judged.
        destination: a PNG.
        is_difference: whether the scores are differences of pass@1.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 1 + 0.45 * len(scores)), layout="constrained")
    axes = figure.add_subplot()
    for place, score in enumerate(scores.values()):
        distances = [[score.value - score.ci_low], [score.ci_high - score.value]]
        axes.errorbar(score.value, place, xerr=distances, fmt="o", color="#0072B2", capsize=4)
        axes.annotate(
            f"{score.value:{'+' * is_difference}.3f}",
            (score.value, place),
            (0, 7),
            textcoords="offset points",
            ha="center",
        )
    axes.set_yticks(range(len(scores)), list(scores))
    axes.set_ylim(len(scores) - 0.5, -0.7)
    if is_difference:
        axes.axvline(0, color="black", linewidth=0.8)
    else:
        axes.set_xlim(0, 1)
    axes.set_xlabel(f"{'difference of ' * is_difference}pass@1, 95 % CI over problems")
    axes.set_title(title, loc="left")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(destination, dpi=150)
    return destination
