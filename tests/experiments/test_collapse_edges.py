"""The study of the edges of collapse: what it asks for next, where it sees edges, and its tables, on made-up rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from experiments.collapse_edges import report
from experiments.collapse_edges.plan import (
    AXES,
    CONTROL,
    FULL,
    QUICK,
    Axis,
    Point,
    Scope,
    chosen,
    edges,
    is_collapsed,
    is_harmed,
    next_points,
    walk,
)
from redi_lab.config.compose import load_config
from redi_lab.config.schema.base import validated
from redi_lab.config.schema.losses import LOSSES

RATE = 2e-4
REDI = Axis("redi", "A", "no", "alpha", (0.2, 0.4, 0.6, 0.8, 1.0))
TOPR = Axis("topr", "C1", "yes", "alpha", (0.2, 0.4, 0.6, 0.8, 1.0))
SIMPER = Axis("simper", "C1", "stalls", None, (1.0,))
SCOPE = Scope((CONTROL, REDI, TOPR, SIMPER), (RATE,), (1, 2, 3))


def make_row(point: Point, accuracies: list[float], state: str = "healthy") -> dict[str, Any]:
    content = {"settings": dict(point.settings), "accuracy": accuracies, "state": state, "stopped": None}
    logps = {"chosen_logp": [-0.04, -0.1], "rejected_logp": [-0.2, -0.9]}
    return {**point._asdict(), **content, **logps, "steps": 131}


def grown(breaks: Callable[[Point], bool], scope: Scope = SCOPE) -> tuple[dict[str, Any], list[list[Point]]]:
    """All rows of a study in which these points collapse, and the batches in which it asked for them."""
    runs: dict[str, Any] = {}
    batches = []
    while points := next_points(scope, runs):
        batches.append(points)
        for point in points:
            alpha = dict(point.settings).get("alpha", 0.5)
            broken = breaks(point)
            accuracies = [0.5, 0.6, 0.1] if broken else [0.5, 0.5, 0.5 + alpha / 3]
            runs[point.name] = make_row(point, accuracies, "collapsed" if broken else "drifting")
    return runs, batches


def redi_beyond(edge_of_seed: dict[int, float]) -> Callable[[Point], bool]:
    return lambda point: point.loss == "redi" and dict(point.settings)["alpha"] > edge_of_seed[point.seed]


def test_the_first_seed_is_tried_at_all_strengths_from_the_strongest_on() -> None:
    points = next_points(SCOPE, {})
    assert {point.seed for point in points} == {1}
    assert [point.name for point in points[:4]] == [
        "redi_alpha0_lr0.0002_s1",
        "redi_alpha1_lr0.0002_s1",
        "topr_alpha1_lr0.0002_s1",
        "simper_lr0.0002_s1",
    ]
    assert len(points) == 1 + 5 + 5 + 1


def test_rows_that_are_there_are_not_asked_for_again() -> None:
    runs, _ = grown(redi_beyond({1: 0.5, 2: 0.5, 3: 0.5}))
    removed = Point("topr", (("alpha", 0.6),), RATE, 1)
    del runs[removed.name]
    assert next_points(SCOPE, runs) == [removed]
    assert next_points(SCOPE, runs) == next_points(SCOPE, dict(reversed(runs.items())))


def test_other_seeds_follow_their_own_edge() -> None:
    """Seed 1 breaks beyond 0.5, seed 2 one strength earlier, seed 3 two later; no more is run than brackets each."""
    runs, batches = grown(redi_beyond({1: 0.5, 2: 0.3, 3: 0.9}))
    alphas = {seed: sorted(r["settings"]["alpha"] for r in runs.values() if (r["loss"], r["seed"]) == ("redi", seed))
              for seed in (2, 3)}  # fmt: skip
    assert alphas == {2: [0.0, 0.2, 0.4, 0.6, 1.0], 3: [0.0, 0.4, 0.6, 0.8, 1.0]}
    assert edges(REDI, RATE, SCOPE.seeds, runs, is_collapsed) == [2, 1, 4]
    assert report.edge_text(REDI, [2, 1, 4]) == "0.4 to 0.6; 3 seeds: 0.2 to 0.4 … 0.8 to 1"
    assert report.edge_text(REDI, [3, 1]) == "0.2 to 0.4; 2 seeds: 0.2 to 0.4 … 0.6 to 0.8"  # one of two is half
    assert all(len(batch) == len(set(batch)) for batch in batches)


def test_other_seeds_try_the_weakest_of_the_best_and_the_strongest_point() -> None:
    first = [TOPR.point(index, RATE, 1) for index in range(5)]
    accuracies = [0.6, 0.8, 0.7, 0.8, 0.8]
    runs = {point.name: make_row(point, [0.5, last]) for point, last in zip(first, accuracies, strict=True)}
    scope = Scope((TOPR,), (RATE,), (1, 2))
    assert next_points(scope, runs) == [TOPR.point(1, RATE, 2), TOPR.point(4, RATE, 2)]


def test_half_of_the_seeds_are_enough_for_a_mark() -> None:
    rows = [
        make_row(TOPR.point(0, RATE, seed), [0.5, 0.6], state) for seed, state in ((1, "collapsed"), (2, "healthy"))
    ]
    assert report.marks(rows) == " c"
    assert report.marks([*rows, rows[1]]) == ""


def test_an_edge_that_is_not_bracketed_yet_is_not_reported() -> None:
    runs, _ = grown(redi_beyond({1: 0.5, 2: 0.3, 3: 0.9}))
    del runs[REDI.point(1, RATE, 2).name]
    assert edges(REDI, RATE, SCOPE.seeds, runs, is_collapsed) == [2, 4]
    del runs[REDI.point(1, RATE, 1).name]
    assert edges(REDI, RATE, SCOPE.seeds, runs, is_collapsed) == []


def test_a_member_without_an_edge_says_so() -> None:
    runs, _ = grown(redi_beyond({1: 0.5, 2: 0.5, 3: 0.5}))
    assert report.edge_text(TOPR, edges(TOPR, RATE, SCOPE.seeds, runs, is_collapsed)) == "not up to 1; 3 seeds"
    assert report.edge_text(TOPR, [0]) == "at 0.2 or before; 1 seed"
    assert report.edge_text(TOPR, []) == "–"


def test_a_walk_ends_where_labels_are_not_in_order() -> None:
    labels = {0: True, 1: False, 2: True, 3: False}
    rows = {index: {"broken": broken} for index, broken in labels.items()}
    ends = [walk(start, 4, rows, lambda row: bool(row["broken"])) for start in range(5)]
    assert ends == [(0, []), (2, []), (2, []), (4, []), (4, [])]


@pytest.mark.parametrize(
    ("accuracies", "stopped", "is_bad"),
    [([0.5, 0.8, 0.61], None, False), ([0.5, 0.8, 0.59], None, True), ([0.8, 0.5, 0.59], None, True),
     ([0.5, 0.9], "loss is NaN", True)],
)  # fmt: skip
def test_harm_is_a_loss_of_a_quarter_of_the_best(accuracies: list[float], stopped: str | None, is_bad: bool) -> None:
    row = {**make_row(REDI.point(0, RATE, 1), accuracies), "stopped": stopped}
    assert is_harmed(row) is is_bad
    assert is_collapsed(row) is (stopped is not None)
    assert is_collapsed({**row, "state": "collapsed"})


def test_a_point_is_chosen_among_those_with_all_seeds_by_their_mean() -> None:
    def row(index: int, seed: int, accuracy: float) -> tuple[str, dict[str, Any]]:
        point = REDI.point(index, RATE, seed)
        return point.name, make_row(point, [0.5, accuracy])

    runs = dict([row(1, 1, 0.99), row(2, 1, 0.9), row(2, 2, 0.6), row(3, 1, 0.7), row(3, 2, 0.8), row(4, 2, 1.0)])
    assert chosen(REDI, SCOPE, runs) == [REDI.point(2, RATE, seed) for seed in (1, 2)]  # 0.75 as at 3, but weaker
    assert chosen(TOPR, SCOPE, runs) == []


def test_the_report_counts_members_and_shows_fresh_scores(tmp_path: Path) -> None:
    runs, _ = grown(redi_beyond({1: 0.5, 2: 0.5, 3: 0.5}))
    scores = {"pass_at_1": 0.9, "pass_at_4": 1.0, "haste": 0.1, "pass_at_1_ci_low": 0.88, "pass_at_1_ci_high": 0.92}
    for point in chosen(TOPR, SCOPE, runs):
        runs[point.name]["fresh"] = scores
    for point in chosen(REDI, SCOPE, runs):
        runs[point.name]["fresh"] = {**scores, "pass_at_1": 0.8}
    start = {**scores, "pass_at_1": 0.5}
    text = report.write_report(SCOPE, {"runs": runs, "starts": {"1": start}}, tmp_path)
    lines = text.splitlines()
    assert "| SFT | A | | | | | 0.500 (0.880–0.920) | | 1.000 | 0.100 | |" in lines
    reached = "alpha 1, lr 0.0002 | 0.900 ± 0.000 | 0.100 ± 0.000 | 1.000"
    assert f"| topr, alpha | C1 | yes | 7 | 0.833 ± 0.000 | {reached}" in text
    assert "1: 0.10 ch | 0.4 to 0.6; 3 seeds | 0.4 to 0.6; 3 seeds |" in text
    assert "| collapse | yes | 1 | 0 (0%–98%) | none |" in lines
    assert "| collapse | no | 1 | 1 (3%–100%) | redi 1 |" in lines
    assert (tmp_path / "tables.md").read_text(encoding="utf-8") == text
    assert (tmp_path / "map.png").stat().st_size > 0


def shown_or_slow(axis: Axis) -> object:
    """One axis with a fixed setting, one without, and one without values by default."""
    is_shown = (axis.loss, axis.key) in (("redi", "alpha"), ("hinge", "delta"), ("simper", None))
    return pytest.param(axis, marks=[] if is_shown else pytest.mark.slow, id=axis.name)


@pytest.mark.parametrize("axis", [shown_or_slow(axis) for axis in FULL.axes])
def test_both_ends_of_every_axis_are_settings_that_the_lab_accepts(axis: Axis) -> None:
    loss: Any = OmegaConf.to_container(load_config("train", axis.point(0, RATE, 101).overrides()).loss)
    validated(LOSSES[loss["_target_"]], loss | dict(axis.point(-1, RATE, 101).settings))


def test_every_objective_with_negatives_has_an_axis_and_quick_is_part_of_the_whole() -> None:
    from redi_lab.config.compose import CONFIG_DIR

    left_out = {
        "sft",
        "psr",
        "nsr",
        "mild_redi",
        "symmetric_redi",
        "unpaired_redi",
        "ld_dpo",
        "nat",
        "token_reward",
    }  # strengths of another, none, or no policy
    names = {path.stem for path in (CONFIG_DIR / "loss").glob("[!_]*.yaml")} - left_out
    assert {axis.loss for axis in AXES} == names
    assert {point.name for point in next_points(QUICK, {})} < {point.name for point in next_points(FULL, {})}
