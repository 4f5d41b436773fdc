"""Tables and map of the study, from its rows: what each member reaches, where it breaks, and whether that was foreseen.

Several seeds count as broken at a strength where at least half of them are. With n seeds the true median edge lies
between the lowest and the highest of theirs with probability 1 − 2^(1−n), whatever its distribution: 0.75 for three.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy.stats import binomtest, fisher_exact

from experiments.collapse_edges.plan import (
    CONTROL,
    LABELS,
    Axis,
    Label,
    Point,
    Row,
    Runs,
    Scope,
    chosen,
    edges,
    is_collapsed,
    is_harmed,
)
from redi_lab.evaluation.metrics import t_quantile

PULLS = ("yes", "no", "stalls")
SIDES = ("chosen_logp", "rejected_logp")
_COLUMNS = 4


def write_report(scope: Scope, content: Mapping[str, Mapping[str, Any]], folder: Path) -> str:
    """Write tables.md and map.png; returns the tables."""
    runs = content["runs"]
    axes = [axis for axis in scope.axes if any(rows_of(axis, scope, runs, rate) for rate in scope.rates)]
    parts = [
        "# Tables of `run.py`",
        "\n".join(what_ran(scope, runs)),
        "## What each member reaches",
        "\n".join(members_table(axes, scope, runs, content["starts"])),
    ]
    for rate in (rate for rate in scope.rates if any(row["rate"] == rate for row in runs.values())):
        parts += [f"## Learning rate {rate:g}", "\n".join(strengths_table(axes, scope, runs, rate))]
        parts += ["\n".join(prediction_table(scope, runs, rate))]
    text = "\n\n".join(parts) + "\n"
    (folder / "tables.md").write_text(text, encoding="utf-8")
    draw_map(axes, scope, runs, folder / "map.png")
    return text


def rows_of(axis: Axis, scope: Scope, runs: Runs, rate: float) -> dict[int, list[Row]]:
    """Index of a strength to the rows of all its seeds, where there are any."""
    found = {}
    for index in range(len(axis.values)):
        names = [axis.point(index, rate, seed).name for seed in scope.seeds]
        found[index] = [runs[name] for name in names if name in runs]
    return {index: rows for index, rows in found.items() if rows}


def is_broken(rows: Sequence[Row], label: Label) -> bool:
    """Whether at least half of the seeds have the label."""
    return 2 * sum(map(label, rows)) >= len(rows)


def what_ran(scope: Scope, runs: Runs) -> Iterator[str]:
    """How many trainings there are of each rate and seed."""
    yield f"| learning rate | {' | '.join(f'seed {seed}' for seed in scope.seeds)} |"
    yield "|---:|" + "---:|" * len(scope.seeds)
    for rate in scope.rates:
        counts = [sum(row["rate"] == rate and row["seed"] == seed for row in runs.values()) for seed in scope.seeds]
        yield f"| {rate:g} | {' | '.join(map(str, counts))} |"


def members_table(axes: Sequence[Axis], scope: Scope, runs: Runs, starts: Mapping[str, Row]) -> Iterator[str]:
    """What is reached at the point chosen on development problems, and by the SFT starts."""
    yield (
        "| member, strength | class | pulled back | runs | development | at | fresh pass@1 | less redi's | pass@4 |"
        " haste | log-prob chosen, rejected |"
    )
    yield "|---|---|---|---:|---|---|---|---|---|---|---|"
    reference = (axis for axis in axes if axis.loss == "redi" and axis is not CONTROL)
    redi = next((fresh_by_seed(axis, scope, runs) for axis in reference), {})
    first, *others = fresh_cells(list(starts.values()))
    yield f"| SFT | A | | | | | {first} | | {' | '.join(others)} | |"
    for axis in axes:
        points = chosen(axis, scope, runs)
        rows = [runs[point.name] for point in points]
        count = sum(len(found) for rate in scope.rates for found in rows_of(axis, scope, runs, rate).values())
        scores = fresh_by_seed(axis, scope, runs)
        first, *others = fresh_cells(list(scores.values()))
        shared = [] if scores == redi else sorted(scores.keys() & redi.keys())
        gap = spread([scores[seed]["pass_at_1"] - redi[seed]["pass_at_1"] for seed in shared]) if shared else "–"
        logps = ", ".join(f"{statistics.mean(row[side][-1] for row in rows):.2f}" for side in SIDES)
        name = "SFT continued (redi, alpha 0)" if axis is CONTROL else axis.name
        cells = [name, axis.cost, axis.pull, str(count), spread([row["accuracy"][-1] for row in rows])]
        yield f"| {' | '.join([*cells, setting(axis, points[0]), first, gap, *others, logps])} |"


def fresh_by_seed(axis: Axis, scope: Scope, runs: Runs) -> dict[int, Row]:
    """Seed to the scores on fresh problems at the chosen point, as far as they have been measured."""
    rows = (runs[point.name] for point in chosen(axis, scope, runs))
    return {row["seed"]: row["fresh"] for row in rows if "fresh" in row}


def setting(axis: Axis, point: Point) -> str:
    """The strength and rate of a point of an axis, in words."""
    strength = "" if axis.key is None else f"{axis.key} {dict(point.settings)[axis.key]:g}, "
    return f"{strength}lr {point.rate:g}"


def fresh_cells(scores: Sequence[Row]) -> list[str]:
    """pass@1, pass@4 and haste over seeds; for one seed pass@1 with its interval over problems."""
    if not scores:
        return ["–"] * 3
    cells = [spread([row[name] for row in scores]) for name in ("pass_at_1", "pass_at_4", "haste")]
    if len(scores) == 1:
        cells[0] += f" ({scores[0]['pass_at_1_ci_low']:.3f}–{scores[0]['pass_at_1_ci_high']:.3f})"
    return cells


def spread(values: Sequence[float]) -> str:
    """Mean ± half of the 95 % t-interval over seeds; without interval for one."""
    mean = f"{statistics.mean(values):.3f}"
    if len(values) < 2:
        return mean
    return f"{mean} ± {t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values)):.3f}"


def strengths_table(axes: Sequence[Axis], scope: Scope, runs: Runs, rate: float) -> Iterator[str]:
    """Last accuracy on development problems at each strength, and the edges, at one rate."""
    yield "c: collapse, h: harm, in at least half of the seeds.\n"
    yield "| member, strength | accuracy, weak to strong | edge of collapse | edge of harm |"
    yield "|---|---|---|---|"
    for axis in (axis for axis in axes if axis is not CONTROL):
        cells = [
            f"{axis.values[index]:g}: {statistics.mean(row['accuracy'][-1] for row in rows):.2f}{marks(rows)}"
            for index, rows in rows_of(axis, scope, runs, rate).items()
        ]
        found = [edge_text(axis, edges(axis, rate, scope.seeds, runs, label)) for label in LABELS.values()]
        yield f"| {axis.name} | {', '.join(cells)} | {' | '.join(found)} |"


def marks(rows: Sequence[Row]) -> str:
    """Which labels at least half of the seeds have."""
    found = "".join(name[0] for name, label in LABELS.items() if is_broken(rows, label))
    return f" {found}" if found else ""


def edge_text(axis: Axis, found: Sequence[int]) -> str:
    """Between which strengths the edge of half of the seeds lies; behind it those of the outermost seeds."""
    if not found:
        return "–"
    ordered = sorted(found)
    text = bracket(axis, ordered[(len(ordered) - 1) // 2])
    if ordered[0] == ordered[-1]:
        return f"{text}; {len(found)} seed{'s' * (len(found) > 1)}"
    return f"{text}; {len(found)} seeds: {bracket(axis, ordered[0])} … {bracket(axis, ordered[-1])}"


def bracket(axis: Axis, index: int) -> str:
    """The strengths on either side of an edge."""
    if index == 0:
        return f"at {axis.values[0]:g} or before"
    if index == len(axis.values):
        return f"not up to {axis.values[-1]:g}"
    return f"{axis.values[index - 1]:g} to {axis.values[index]:g}"


def prediction_table(scope: Scope, runs: Runs, rate: float) -> Iterator[str]:
    """Which members break at their strongest setting, against what the weights at p → 0 foretell; a member counts once.

    The prediction is that "yes" does not break and "no" does; "stalls" does not, either.
    """
    yield "At the strongest setting of each member (its first axis); exact 95 % intervals over members:\n"
    yield "| label | pulled back | members | broken | which, with the share of their seeds |"
    yield "|---|---|---:|---|---|"
    for name, label in LABELS.items():
        groups = {pull: strongest(scope, runs, rate, pull, label) for pull in PULLS}
        for pull, shares in ((pull, shares) for pull, shares in groups.items() if shares):
            broken = [f"{member} {share:.2g}" for member, share in shares.items() if share >= 0.5]
            interval = binomtest(len(broken), len(shares)).proportion_ci(method="exact")
            share = f"{len(broken)} ({interval.low:.0%}–{interval.high:.0%})"
            yield f"| {name} | {pull} | {len(shares)} | {share} | {', '.join(broken) or 'none'} |"
        yes, no = ([share >= 0.5 for share in groups[pull].values()] for pull in ("yes", "no"))
        if yes and no:
            table = [[sum(group), len(group) - sum(group)] for group in (yes, no)]
            yield f"| {name} | yes against no | | | Fisher's exact p = {fisher_exact(table).pvalue:.2g} |"


def strongest(scope: Scope, runs: Runs, rate: float, pull: str, label: Label) -> dict[str, float]:
    """Member to the share of its seeds with the label at the strongest setting of its first axis."""
    first = {axis.loss: axis for axis in reversed(scope.axes) if axis is not CONTROL}
    points = {axis.loss: rows_of(axis, scope, runs, rate).get(len(axis.values) - 1) for axis in first.values()
              if axis.pull == pull}  # fmt: skip
    return {loss: statistics.mean(map(label, rows)) for loss, rows in points.items() if rows}


def draw_map(axes: Sequence[Axis], scope: Scope, runs: Runs, destination: Path) -> None:
    """A panel each axis: strength by learning rate, coloured and labelled by accuracy, marked where seeds break."""
    from redi_lab.figures.style import dress, new_figure, save_figure

    panels = [axis for axis in axes if axis is not CONTROL]
    rates = sorted({row["rate"] for row in runs.values()})
    height = -(-len(panels) // _COLUMNS)
    figure, grid = new_figure(15, (1.1 + 0.35 * len(rates)) * height + 0.4, height, _COLUMNS, squeeze=False)
    for ax, axis in zip(grid.flat, panels, strict=False):
        dress(ax, axis.name, "none")
        draw_panel(ax, axis, scope, runs, rates)
    for ax in grid.flat[len(panels) :]:
        ax.set_axis_off()
    caption = "last accuracy on development problems by learning rate and strength, weak to strong"
    figure.supxlabel(f"{caption};  × collapse,  ▽ harm, in at least half of the seeds", fontsize=10)
    save_figure(figure, destination)


def draw_panel(ax: Any, axis: Axis, scope: Scope, runs: Runs, rates: Sequence[float]) -> None:
    """One cell each strength and rate that was trained."""
    cells = [[math.nan] * len(axis.values) for _ in rates]
    for y, rate in enumerate(rates):
        for x, rows in rows_of(axis, scope, runs, rate).items():
            cells[y][x] = statistics.mean(row["accuracy"][-1] for row in rows)
            broken = "×" * is_broken(rows, is_collapsed) + "▽" * is_broken(rows, is_harmed)
            colour = "white" if cells[y][x] < 0.6 else "black"
            ax.text(x, y, f"{cells[y][x]:.2f}{broken}", color=colour, ha="center", va="center", fontsize=8)
    ax.imshow(cells, cmap="cividis", vmin=0, vmax=1, aspect="auto", origin="lower")
    ax.set_xticks(range(len(axis.values)), [f"{value:g}" for value in axis.values] if axis.key else ["–"])
    ax.set_yticks(range(len(rates)), [f"{rate:g}" for rate in rates])
