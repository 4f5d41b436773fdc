"""The study of advice on α: its teachers are settings that the lab accepts, and its table says what the rows say."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.alpha_advice.run import ALPHAS, TEACHERS, harmed_from, name_of, overrides, report
from redi_lab.config.compose import load_config
from redi_lab.run.build import make_source


@pytest.mark.parametrize("teacher", TEACHERS)
def test_teachers_are_what_the_table_says(teacher: str) -> None:
    source: Any = make_source(load_config("train", overrides(teacher)))
    habits = {"slip_rate": 0.04, "haste_last": 0.55, "haste_before": 0.05, "haste_slip_rate": 0.35}
    assert vars(source)["seed"] == 201
    assert {key: getattr(source.teacher, key) for key in habits} == {**habits, **TEACHERS[teacher]}


def row(teacher: str, alpha: float, last: float) -> dict[str, Any]:
    return {"teacher": teacher, "alpha": alpha, "accuracy": [0.8, last], "stopped": None}


def test_the_table() -> None:
    """Of three teachers the first is harmed from 0.65 on, the second at 1, the third never; a fourth is unfinished."""
    edges = {"default": 0.5, "hastier": 0.9, "rarely hasty": None, "haste fails more": 0.4}
    starts = {
        teacher: {"num_pairs": 1000, "tells": True, "advised_alpha": edge, "alpha_beyond_chance": {"0.05": edge}}
        for teacher, edge in edges.items()
    }
    harmed = {"default": 0.65, "hastier": 1.0, "rarely hasty": 9.0}
    rows = [row(t, a, 0.1 if a >= first else 0.8 + a / 10) for t, first in harmed.items() for a in ALPHAS]
    rows.append(row("haste fails more", 0.2, 0.8))
    runs = {name_of(one["teacher"], one["alpha"]): one for one in rows}
    lines = report({"starts": starts, "runs": runs}).splitlines()
    assert lines[2].startswith("| default | 1,000 | 0.5 | 0.5 | 0.5 | 0.65 | 0.2: 0.82, ")
    assert [line.split(" | ")[5] for line in lines[2:5]] == ["0.65", "1", "none"]
    assert lines[-1].startswith("Spearman's ρ of the two edges over 3 teachers: 1.00")
    assert harmed_from({1.0: row("", 1.0, 0.7)}) == 1.1
