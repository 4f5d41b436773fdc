"""The one style of all figures, drawn through matplotlib's object-oriented interface: no global state, no display.

figure, ax = new_figure(8.2, 5.6)
dress(ax, "Lengths")
save_figure(figure, folder / "lengths.png")
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

from redi_lab.files import replacing

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D31")
GOOD, BAD, NEUTRAL = COLOURS[0], COLOURS[1], "#8A94A3"


def new_figure(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
    layout: Literal["constrained"] | None = "constrained",
    **options: Any,
) -> tuple[Any, Any]:
    """A figure, in inches, and its axes: one, or an array of them (options as of `Figure.subplots`).

    Without `layout` the caller sets the margins.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout=layout, facecolor="white")
    return figure, figure.subplots(rows, columns, **options)


def dress(ax: Any, title: str, grid: str = "both") -> None:
    """Title, spines and a grid ("x", "y", "both" or "none")."""
    ax.set_title(literal(title), loc="left", y=1.0, fontsize=11, fontweight="bold")  # y: not searched for
    ax.spines[["top", "right"]].set_visible(False)
    ax.set_axisbelow(True)
    if grid != "none":
        ax.grid(axis=grid, color="#e6e6e6", linewidth=0.8)


def literal(text: str) -> str:
    """Text that matplotlib draws as it is: a dollar sign starts mathematics, a leading underscore hides an entry."""
    return (" " if text.startswith("_") else "") + text.replace("$", r"\$")


def save_figure(figure: Any, destination: Path) -> Path:
    """Write a figure, whole or not at all, as its suffix says (.png, or vectors in .pdf); its folder is created."""
    destination.parent.mkdir(parents=True, exist_ok=True)
    with replacing(destination) as partial, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph", category=UserWarning)  # drawn as a box: no harm
        is_vector = destination.suffix == ".pdf"
        metadata = {"CreationDate": None} if is_vector else None  # else equal figures would be other files
        figure.savefig(partial, format="pdf" if is_vector else "png", dpi=110, metadata=metadata)
    return destination
