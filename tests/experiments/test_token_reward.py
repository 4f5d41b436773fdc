"""The study of token rewards: where the wrong column is, its AUC, and its tables."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch

from experiments.token_reward.run import ARMS, KINDS, MEASURES, auc, by_line, found_table, measures, training_table
from experiments.token_reward.run import wrong_result as find
from redi_lab.config.compose import load_config
from redi_lab.data.teacher import Teacher
from redi_lab.run.build import make_source


def test_the_wrong_column_is_the_teachers_slip() -> None:
    """Against the attempt without slips that draws the same numbers: texts are equal up to the wrong digit."""
    source: Any = make_source(load_config("train", ["+experiment=chains", "seed=3"]))
    rng, seen = random.Random(0), 0
    for _ in range(200):
        problem = source.draw(rng)
        text, answer, _ = Teacher(slip_rate=0.1, errs_once=True, haste_last=0, haste_before=0).solve(problem, rng)
        if answer == problem.answer:
            with pytest.raises(ValueError, match="no wrong column"):
                find(text)
            continue
        right = Teacher(slip_rate=0, haste_last=0, haste_before=0).solve(problem, rng).text
        start, end = find(text)
        assert text[:start] == right[:start]
        assert text[start:end] != right[start : start + end - start]
        seen += 1
    assert seen > 20


def test_a_slip_that_was_put_right_is_none() -> None:
    text = "first add 967 : 6+7=12 Wait , 6+7=13 6+1=8 so 983 ."
    assert text[slice(*find(text))] == "8"
    assert text[find(text)[0] - 4 : find(text)[0]] == "6+1="


def test_auc_by_hand() -> None:
    assert auc(np.array([2.0, 1.0]), np.array([1.0, 0.0])) == (1 + 1 + 0.5 + 1) / 4
    assert by_line(np.array([1.0, 3.0, 5.0]), np.array([0, 0, 1])).tolist() == [2.0, 5.0]


def test_measures_are_larger_where_a_token_is_likelier_wrong() -> None:
    found = measures(torch.tensor([2.0, -4.0, 1.0]), torch.tensor([-0.1, -3.0, -0.2]))
    assert set(found) == set(MEASURES)
    assert found["mean"].tolist() == [-2.0, 1.0]
    assert found["omega"].tolist() == pytest.approx([0.0, 2 / (1 + np.exp(-1)) - 1])
    assert (found["score"].tolist(), found["later"].tolist()) == ([-2.0, 4.0], [4.0, -1.0])
    assert found["logp"].tolist() == pytest.approx([0.1, 3.0])
    assert found["position"].tolist() == [1.0, 2.0]


def test_tables() -> None:
    one: dict[str, Any] = {f"{kind} {name}": [0.5, 1.0] for kind in KINDS for name in MEASURES}
    one |= {"agreed": [0.5, 1.0], "ranked": [1.0, 1.0]}
    other = one | {"steps omega": [0.5, 0.0]}
    lines = found_table({"42": one, "43": other})
    assert lines[2].startswith("| ω⁻ | 0.500 (")
    assert "), 0.25 to 0.75 | 0.750 (" in lines[2]
    assert found_table({}) == ["no reward model was judged yet"]
    score = {"greedy_pass_at_1": 0.5, "columns": 0.5}
    gains = {"OREAL, ω = 1": (0.4, 0.4), "OREAL, ω": (0.5, 0.6)}
    runs = {f"{arm}/{n}": {"pass_at_1": value, **score} for arm, of in gains.items() for n, value in enumerate(of)}
    assert set(gains) <= set(ARMS)
    table = training_table(runs)
    assert table[2] == "| OREAL, ω = 1 | 2 | 0.400 | 0.500 | 0.500 | – |"
    assert table[3] == "| OREAL, ω | 2 | 0.550 | 0.500 | 0.500 | +0.150 ± 0.635 |"
