"""Tables and figure of the study, from its rows.

Sources are compared on the seeds that both have: they share start, problems and development problems, so differences
are paired; their t-intervals are over seeds. Intervals of shares are Clopper and Pearson's.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from experiments.collapse_edges.plan import LABELS
from experiments.collapse_edges.report import spread
from experiments.rounds.arms import FRESH, OBJECTIVES, ONCE, SOURCES, TEACHER

Row = Mapping[str, Any]
Arms = Mapping[tuple[str, str], Mapping[int, Row]]
"""Objective and source to the row of each seed."""
CURVES = (
    ("accuracy", "pass@1, development problems"),
    ("fall", "fall of the start's right traces, nats per token"),
    ("kl_per_token", "KL(sampler ‖ policy) after each round, nats per token"),
)


def write_report(content: Mapping[str, Mapping[str, Any]], folder: Path) -> str:
    """Write tables.md and curves.png into a folder; returns the tables."""
    arms = arms_of(content["runs"])
    starts = [start["pass_at_1"] for start in content["starts"].values()]
    parts = ["# Tables of `run.py`", "\n".join(arms_table(arms)), "\n".join(differences_table(arms))]
    if starts:
        parts[1] += f"\n\nThe start has pass@1 {spread(starts)} on fresh problems, over {len(starts)} seeds."
    text = "\n\n".join(parts) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tables.md").write_text(text, encoding="utf-8")
    if arms:
        draw(arms, folder / "curves.png")
    return text


def arms_of(runs: Mapping[str, Row]) -> dict[tuple[str, str], dict[int, Row]]:
    """Those that there are, in the order of the study."""
    found: dict[tuple[str, str], dict[int, Row]] = {}
    for objective, source in ((objective, source) for objective in OBJECTIVES for source in SOURCES):
        rows = {row["seed"]: row for row in runs.values() if (row["objective"], row["source"]) == (objective, source)}
        if rows:
            found[objective, source] = rows
    return found


def arms_table(arms: Arms) -> Iterator[str]:
    """What each arm came to, over its seeds."""
    yield "| objective | traces | seeds | pass@1, fresh | haste | collapse | harm | fall | KL | ESS | pairs | s |"
    yield "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    for (objective, source), by_seed in arms.items():
        rows = list(by_seed.values())
        scores = [spread([row["fresh"][key] for row in rows if key in row["fresh"]]) for key in ("pass_at_1", "haste")]
        labels = [share([label(row) for row in rows]) for label in LABELS.values()]
        stale = ["–", "–"]
        if source != TEACHER:
            keys = ("kl_per_token", "ess_share")
            stale = [f"{mean([one[key] for row in rows for one in row['stale']]):.3f}" for key in keys]
        fall, pairs = mean([row["fall"][-1] for row in rows]), mean([one for row in rows for one in row["pairs"]])
        cells = [objective, source, str(len(rows)), *scores, *labels, f"{fall:.3f}", *stale, f"{pairs:.0f}"]
        yield f"| {' | '.join(cells)} | {mean([row['seconds'] for row in rows]):.0f} |"


def mean(values: Sequence[float]) -> float:
    """NaN without values, as of an arm that ended in its first round."""
    return statistics.mean(values) if values else float("nan")


def share(labels: Sequence[bool]) -> str:
    """How many of the seeds, with the exact 95 % interval of the share."""
    interval = binomtest(sum(labels), len(labels)).proportion_ci(method="exact")
    return f"{sum(labels)} ({interval.low:.0%}–{interval.high:.0%})"


def differences_table(arms: Arms) -> Iterator[str]:
    """pass@1 on fresh problems, and how many seeds are harmed under which, for each two sources of an objective."""
    yield "| objective | first − second | seeds | pass@1, fresh | harmed: both, first alone, second alone, neither |"
    yield "|---|---|---:|---:|---|"
    for objective in OBJECTIVES:
        for first, second in combinations((FRESH, ONCE, TEACHER), 2):
            new, old = arms.get((objective, first), {}), arms.get((objective, second), {})
            seeds = sorted(new.keys() & old.keys())
            if seeds:
                gaps = [new[seed]["fresh"]["pass_at_1"] - old[seed]["fresh"]["pass_at_1"] for seed in seeds]
                found = [(LABELS["harm"](new[seed]), LABELS["harm"](old[seed])) for seed in seeds]
                kinds = ((True, True), (True, False), (False, True), (False, False))
                counts = ", ".join(str(found.count(kind)) for kind in kinds)
                yield f"| {objective} | {first} − {second} | {len(seeds)} | {spread(gaps)} | {counts} |"


def draw(arms: Arms, destination: Path) -> None:
    """A column each objective, a row each curve, a colour each source; thin lines are seeds, thick ones means."""
    from redi_lab.figures.style import COLOURS, dress, new_figure, save_figure

    objectives = [objective for objective in OBJECTIVES if any((objective, source) in arms for source in SOURCES)]
    figure, grid = new_figure(3.2 * len(objectives), 8, len(CURVES), len(objectives), squeeze=False, sharey="row")
    for column, objective in enumerate(objectives):
        for (curve, label), ax in zip(CURVES, grid[:, column], strict=True):
            dress(ax, objective)
            for source, colour in zip(SOURCES, COLOURS, strict=False):
                rows = arms.get((objective, source), {}).values()
                curves = [points for row in rows if (points := points_of(row, curve))]
                for points in curves:
                    ax.plot(*zip(*points, strict=True), color=colour, linewidth=0.7, alpha=0.5)
                if curves:
                    longest = max(curves, key=len)
                    steps = [step for step, _ in longest]
                    means = [mean([value for points in curves for at, value in points if at == step]) for step in steps]
                    ax.plot(steps, means, color=colour, linewidth=2.2, label=source)
            if column == 0:
                ax.set_ylabel(label)
            if curve != "accuracy":
                ax.set_yscale("symlog", linthresh=0.1)
        grid[-1, column].set_xlabel("steps")
    grid[0, 0].legend(frameon=False)
    save_figure(figure, destination)


def points_of(row: Row, curve: str) -> list[tuple[int, float]]:
    """(step, value) of a row's curve; staleness begins with the first round, the others with the start."""
    if curve in row:
        return [(number * row["steps"], value) for number, value in enumerate(row[curve])]
    return [(number * row["steps"], one[curve]) for number, one in enumerate(row["stale"], start=1)]
