"""Tables and the map of `run.py`: what each objective reaches, and at which strength it collapses."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

Row = Mapping[str, Any]


def write_report(rows: Mapping[str, Row], folder: Path) -> str:
    """Write map.png; return the tables as Markdown."""
    members = sorted({row["member"] for row in rows.values()})
    draw_map(rows.values(), members, folder / "map.png")
    lines = [
        "| objective | trainings | pass@1 at the best point | its setting | pass@4 there | edge by learning rate |",
        "|---|---:|---:|---|---:|---|",
    ]
    for member in members:
        own = [row for row in rows.values() if row["member"] == member]
        value, rate = best_point(own)
        there = [row for row in own if (row["value"], row["rate"]) == (value, rate)]
        edges = "; ".join(f"{r:g}: {edge(own, r)}" for r in sorted({row["rate"] for row in own}))
        lines.append(
            f"| {member} | {len(own)} | {spread([row['pass_at_1'] for row in there])} | {value:g}, lr {rate:g} |"
            f" {spread([row['pass_at_4'] for row in there])} | {edges} |"
        )
    return "\n".join(lines)


def best_point(rows: Iterable[Row]) -> tuple[float, float]:
    """Strength and rate with the highest mean accuracy on development problems over seeds."""
    by_point: dict[tuple[float, float], list[float]] = {}
    for row in rows:
        by_point.setdefault((row["value"], row["rate"]), []).append(row["development"])
    return max(by_point, key=lambda point: statistics.mean(by_point[point]))


def is_collapsed(row: Row) -> bool:
    """Whether the rule of `redi_lab.callbacks.collapse_rule` says so at any step."""
    return bool(row["collapsed"])


def edge(rows: Sequence[Row], rate: float) -> str:
    """The strengths between which the share of collapsed seeds passes one half, weak ones first."""
    values = list(dict.fromkeys(row["value"] for row in rows if row["rate"] == rate))
    before: float | None = None
    for value in values:
        here = [is_collapsed(row) for row in rows if (row["value"], row["rate"]) == (value, rate)]
        if sum(here) * 2 >= len(here):
            return f"at most {value:g}" if before is None else f"{before:g} to {value:g}"
        before = value
    return "none"


def spread(values: Sequence[float]) -> str:
    """Mean ± half of the 95 % t-interval over seeds; without interval for one."""
    from redi_lab.evaluation.metrics import t_quantile

    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:.3f}"
    return f"{mean:.3f} ± {t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values)):.3f}"


def draw_map(rows: Iterable[Row], members: Sequence[str], destination: Path) -> None:
    """pass@1 against strength, a panel each objective and a line each learning rate; collapsed runs are crosses."""
    rows, columns = list(rows), 4
    figure = Figure(figsize=(3.2 * columns, 2.4 * -(-len(members) // columns)), layout="constrained")
    panels = figure.subplots(-(-len(members) // columns), columns, squeeze=False, sharey=True).flatten()
    for panel, member in zip(panels, members, strict=False):
        own = [row for row in rows if row["member"] == member]
        values = list(dict.fromkeys(row["value"] for row in own))
        for shade, rate in enumerate(sorted({row["rate"] for row in own})):
            here = [row for row in own if row["rate"] == rate]
            means = [statistics.mean(r["pass_at_1"] for r in here if r["value"] == v) for v in values]
            panel.plot(range(len(values)), means, color=f"C{shade}", label=f"lr {rate:g}")
            for row in here:
                mark = "x" if is_collapsed(row) else "o"
                panel.plot(values.index(row["value"]), row["pass_at_1"], mark, color=f"C{shade}", markersize=4)
        panel.set_xticks(range(len(values)), [f"{value:g}" for value in values])
        panel.set_title(member, fontsize=9)
        panel.set_ylim(-0.03, 1.03)
    for panel in panels[len(members) :]:
        panel.set_axis_off()
    panels[0].legend(fontsize=7)
    figure.supxlabel("strength, weak to strong; crosses: the rule saw a collapse")
    figure.supylabel("pass@1 on fresh problems")
    figure.savefig(destination, dpi=110)
