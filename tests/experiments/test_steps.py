"""The study of steps: its truth, what it keeps of a search, and its tables."""

from __future__ import annotations

import random
from typing import Any

import pytest

from experiments.steps.run import ARMS, ROLLOUTS, first_wrong_line, judge, search_table, share, training_table
from redi_lab.config.compose import load_config
from redi_lab.data.teacher import Teacher
from redi_lab.run.build import make_source


def test_the_truth_is_where_the_teacher_erred() -> None:
    """Against the attempt without slips that draws the same numbers: lines are equal up to the wrong one."""
    source: Any = make_source(load_config("train", ["+experiment=chains", "seed=3"]))
    rng, seen = random.Random(0), 0
    for _ in range(200):
        problem = source.draw(rng)
        text, answer, _ = Teacher(slip_rate=0.1, errs_once=True, haste_last=0, haste_before=0).solve(problem, rng)
        if answer == problem.answer:
            with pytest.raises(ValueError, match="no wrong line"):
                first_wrong_line(problem.text, text)
            continue
        right = Teacher(slip_rate=0, haste_last=0, haste_before=0).solve(problem, rng).text.splitlines()
        parts = next(n for n, (a, b) in enumerate(zip(text.splitlines(), right, strict=True), start=1) if a != b)
        assert first_wrong_line(problem.text, text) == parts
        seen += 1
    assert seen > 20


def rows(name: str, belief: list[float], rollouts: int) -> list[dict[str, Any]]:
    return [{"id": name, "step": n, "first_wrong": p, "rollouts": rollouts} for n, p in enumerate(belief)]


def test_tables() -> None:
    found = judge([*rows("a", [0.1, 0.8, 0.1], 4), *rows("b", [0.2, 0.1, 0.7], 4)], {"a": (1, 2), "b": (1, 2)})
    assert found == {
        "truth": [1, 1],
        "steps": [2, 2],
        "found": [1, 2],
        "belief": [0.8, 0.7],
        "rollouts": [12, 12],
    }
    lines = search_table({f"all_{ROLLOUTS[0]}": found})
    assert lines[2].startswith("| all | 16 | 100% | 0.500 (0.095–0.905) | 0.500 (0.095–0.905) | 0.75 | 12.0 |")
    assert "drawn at random is the wrong one in 50%; step 1 in 100%" in lines[-1]
    assert share(0, 0) == "–"
    score = {"greedy_pass_at_1": 0.5, "columns": 0.5}
    runs = {f"whole traces/{seed}": {"pass_at_1": 0.4, **score} for seed in (42, 43)}
    runs |= {f"by advantages/{seed}": {"pass_at_1": gain, **score} for seed, gain in ((42, 0.5), (43, 0.6))}
    assert set(name.split("/")[0] for name in runs) <= set(ARMS)
    table = training_table(runs)
    assert table[2].startswith("| whole traces | 2 | 0.400 |")
    assert table[3].startswith("| by advantages | 2 | 0.550 | 0.500 | 0.500 | +0.150 ± 0.635")
