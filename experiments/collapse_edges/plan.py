"""What the study trains: its members, and which trainings are missing, given those that are there. Nothing runs here.

    next_points(FULL, runs)  # a list of points to train, in order; empty when the study is complete

A study that was cut short goes on from its rows, for the plan follows from them alone. One learning rate after the
other: first all strengths of every member on the first seed, strongest ones first; then, on the other seeds, the points
on either side of the edge that the first seed shows, as far up or down as each seed's own edge lies, the weakest of
those with the highest accuracy on development problems, and the strongest one.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

Row = Mapping[str, Any]
"""What is kept of a training, see `experiments.runner.read_row`."""
Runs = Mapping[str, Row]
"""Name of a point to its row."""
Label = Callable[[Row], bool]

ALPHAS = (0.2, 0.4, 0.6, 0.8, 1.0)
BATCH_SIZES = dict.fromkeys(("asymre", "w_reinforce", "oreal", "a_star_po", "kto"), 53)
"""Unpaired objectives also see right traces that have no wrong one: in as many steps, beside the same wrong traces."""
HARM = 0.75
"""Share of the best accuracy so far, below which the last one counts as harm."""


class Point(NamedTuple):
    """One training: objective, its settings, learning rate and seed."""

    loss: str
    settings: tuple[tuple[str, float], ...]
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder and row; the same settings have the same name, whatever axis they are on."""
        settings = "".join(f"_{key}{value:g}" for key, value in self.settings)
        return f"{self.loss}{settings}_lr{self.rate:g}_s{self.seed}"

    def overrides(self) -> list[str]:
        """What the command line of the training says of them."""
        size = BATCH_SIZES.get(self.loss)
        return [
            f"loss={self.loss}",
            *(f"loss.{key}={value}" for key, value in self.settings),
            *([] if size is None else [f"data.batch_size={size}"]),
            f"optimizer.lr={self.rate}",
            f"seed={self.seed}",
        ]


class Axis(NamedTuple):
    """A member and the setting that says how hard it pushes rejected traces down.

    Attributes:
        loss: the objective.
        cost: its class in docs/objectives.md.
        pull: whether something pulls a token back that both sides share, as its probability p falls: "yes", only the
            negative's weight vanishes; "no", neither does; "stalls", both do.
        key: of the setting; None: there is none.
        values: from weak to strong.
        fixed: its other settings.
    """

    loss: str
    cost: str
    pull: str
    key: str | None
    values: tuple[float, ...]
    fixed: tuple[tuple[str, float], ...] = ()

    @property
    def name(self) -> str:
        """Of table rows and panels."""
        return self.loss if self.key is None else f"{self.loss}, {self.key}"

    def point(self, index: int, rate: float, seed: int) -> Point:
        """The training at a strength."""
        varied = () if self.key is None else ((self.key, self.values[index]),)
        return Point(self.loss, tuple(sorted((*varied, *self.fixed))), rate, seed)


CONTROL = Axis("redi", "A", "", "alpha", (0.0,))
"""SFT continued: as many steps on the chosen traces alone."""

# The first axis of a member is the one that the prediction is tested on. alpha_schedule and other settings: defaults.
AXES = (
    Axis("redi", "A", "no", "alpha", ALPHAS),
    Axis("asymre", "A", "no", "baseline", (0.4, 0.57, 0.67, 0.73, 0.77)),  # unpaired REDI's alpha 0.2, 0.4, … 1
    Axis("w_reinforce", "A", "no", "positive_weight", (1.5, 0.75, 0.5, 0.375, 0.3, 0.1, 0.0)),  # 0.2, … 1, 3, ∞
    Axis("bounded_redi", "C1", "yes", "alpha", ALPHAS, (("gamma", 1.0),)),
    Axis("gated_redi", "C1", "yes", "alpha", ALPHAS, (("tau", 0.5),)),
    Axis("hinge", "C1", "yes", "alpha", ALPHAS, (("delta", 1.0),)),
    Axis("topr", "C1", "yes", "alpha", ALPHAS),
    Axis("npo", "C1", "yes", "alpha", ALPHAS, (("beta", 0.1),)),
    Axis("nca", "C1", "yes", "beta", (1.0, 0.3, 0.1, 0.03, 0.01)),
    Axis("simper", "C1", "stalls", None, (1.0,)),
    Axis("simpo", "C2", "stalls", "beta", (20.0, 10.0, 5.0, 2.5, 1.0)),
    Axis("dpo", "C2", "stalls", "beta", (3.0, 1.0, 0.3, 0.1, 0.03)),
    Axis("dpo_shift", "C2", "no", "alpha", (0.2, 0.4, 0.6, 0.8, 0.9), (("beta", 1.0),)),  # 1 is DPO
    Axis("rpo", "C3", "yes", "nll_weight", (3.0, 1.0, 0.3, 0.1, 0.03), (("beta", 1.0),)),
    Axis("dpop", "C3", "no", "penalty", (50.0, 5.0, 1.0, 0.5, 0.1), (("beta", 1.0),)),
    Axis("cal_dpo", "C3", "yes", "beta", (1.0, 0.3, 0.1, 0.03, 0.01)),
    Axis("oreal", "A", "no", "negative_weight", (0.2, 0.4, 0.6, 0.8, 1.0)),
    Axis("unlikelihood", "B", "yes", "alpha", ALPHAS),
    Axis("token_topr", "B", "yes", "alpha", ALPHAS),
    Axis("luffy", "B", "stalls", "alpha", ALPHAS, (("gamma", 0.1),)),
    Axis("a_star_po", "C1", "yes", "beta", (1.0, 0.3, 0.1, 0.03, 0.01), (("value_beta", 0.5),)),
    Axis("kto", "D", "stalls", "beta", (3.0, 1.0, 0.3, 0.1, 0.03)),
)

# How fast must the weight fade? At alpha = 1, from fast to slow.
FADING = (
    Axis("bounded_redi", "C1", "yes", "gamma", (4.0, 2.0, 1.0, 0.5, 0.25), (("alpha", 1.0),)),
    Axis("gated_redi", "C1", "yes", "tau", (0.8, 0.65, 0.5, 0.3, 0.1), (("alpha", 1.0),)),
    Axis("hinge", "C1", "yes", "delta", (0.25, 0.5, 1.0, 2.0, 4.0), (("alpha", 1.0),)),
    Axis("npo", "C1", "yes", "beta", (1.0, 0.3, 0.1, 0.03, 0.01), (("alpha", 1.0),)),
)


class Scope(NamedTuple):
    """What a study covers; the first seed is the one on which all strengths are tried."""

    axes: tuple[Axis, ...]
    rates: tuple[float, ...]
    seeds: tuple[int, ...]

    def axes_at(self, rate: float) -> list[Axis]:
        """What is tried at a learning rate: how fast a weight must fade, at the first one alone."""
        return [axis for axis in self.axes if rate == self.rates[0] or axis not in FADING]


FULL = Scope((CONTROL, *AXES, *FADING), (2e-4, 1e-4), (101, 102, 103))
QUICK = Scope(
    tuple(
        axis for axis in FULL.axes if axis.key in ("alpha", None) and axis.loss in ("redi", "hinge", "topr", "simper")
    ),
    FULL.rates[:1],
    FULL.seeds[:1],
)


def is_collapsed(row: Row) -> bool:
    """Whether the collapse rule says so at any step, or numbers that are not finite ended the training."""
    return bool(row["state"] == "collapsed" or row["stopped"])


def is_harmed(row: Row) -> bool:
    """Whether the last accuracy on development problems is below `HARM` times the best one, the start's included."""
    accuracies = row["accuracy"]
    return bool(row["stopped"] or accuracies[-1] < HARM * max(accuracies))


LABELS: Mapping[str, Label] = {"collapse": is_collapsed, "harm": is_harmed}


def next_points(scope: Scope, runs: Runs) -> list[Point]:
    """The trainings that can be said to be missing now; there may be more once they are done."""
    for rate in scope.rates:
        missing = [point for point in first_seed_points(scope, rate) if point.name not in runs]
        missing = missing or [point for point in other_seeds_points(scope, rate, runs) if point.name not in runs]
        if missing:
            return list(dict.fromkeys(missing))
    return []


def first_seed_points(scope: Scope, rate: float) -> Iterator[Point]:
    """All strengths of all axes, strongest ones first."""
    axes = scope.axes_at(rate)
    for rank in range(1, 1 + max(len(axis.values) for axis in axes)):
        for axis in axes:
            if rank <= len(axis.values):
                yield axis.point(len(axis.values) - rank, rate, scope.seeds[0])


def other_seeds_points(scope: Scope, rate: float, runs: Runs) -> Iterator[Point]:
    """What the first seed's rows, and then their own, ask of the other seeds at a rate."""
    for axis in scope.axes_at(rate):
        first = known_rows(axis, rate, scope.seeds[0], runs)
        best = max(first, key=lambda index: (first[index]["accuracy"][-1], -index))
        for seed in scope.seeds[1:]:
            rows = known_rows(axis, rate, seed, runs)
            asked = {best, len(axis.values) - 1}
            for label in LABELS.values():
                start = first_edge(len(axis.values), first, label)
                asked.update(walk(start, len(axis.values), rows, label)[1])
            yield from (axis.point(index, rate, seed) for index in sorted(asked))


def known_rows(axis: Axis, rate: float, seed: int, runs: Runs) -> dict[int, Row]:
    """Index of a strength to its row, weak ones first, where there is one."""
    names = (axis.point(index, rate, seed).name for index in range(len(axis.values)))
    return {index: runs[name] for index, name in enumerate(names) if name in runs}


def first_edge(size: int, rows: Mapping[int, Row], label: Label) -> int:
    """Index of the weakest strength with the label; `size` where none has it."""
    return next((index for index in sorted(rows) if label(rows[index])), size)


def walk(start: int, size: int, rows: Mapping[int, Row], label: Label) -> tuple[int, list[int]]:
    """Look for the edge from a guess on: the index with the label, below which the next weaker strength is without it.

    Returns:
        Where the search stands, and the strengths that must be trained for it to go on; none when it is the edge.
    """
    edge = start
    while True:
        missing = [index for index in (edge - 1, edge) if 0 <= index < size and index not in rows]
        if missing:
            return edge, missing
        if edge < size and not label(rows[edge]):
            edge += 1
        elif edge > 0 and label(rows[edge - 1]):
            edge -= 1
        else:
            return edge, []


def edges(axis: Axis, rate: float, seeds: Sequence[int], runs: Runs, label: Label) -> list[int]:
    """The edge of each seed whose edge is known, as an index; the number of strengths where none has the label."""
    size, guess = len(axis.values), 0
    found = []
    for number, seed in enumerate(seeds):
        rows = known_rows(axis, rate, seed, runs)
        if number == 0:
            if len(rows) < size:
                return []
            guess = first_edge(size, rows, label)
            found.append(guess)
        else:
            edge, missing = walk(guess, size, rows, label)
            found += [] if missing else [edge]
    return found


def chosen(axis: Axis, scope: Scope, runs: Runs) -> list[Point]:
    """The point with the highest mean accuracy on development problems, on all its seeds; the weakest of equals.

    Only points with as many seeds as any other of the axis are considered.
    """
    candidates = []
    for rate in scope.rates:
        for index in range(len(axis.values)):
            points = [axis.point(index, rate, seed) for seed in scope.seeds]
            candidates.append([point for point in points if point.name in runs])
    most = max(map(len, candidates))
    if most == 0:
        return []
    full = [points for points in candidates if len(points) == most]
    return max(full, key=lambda points: statistics.mean(runs[point.name]["accuracy"][-1] for point in points))
