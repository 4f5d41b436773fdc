"""The study of token rewards: where the wrong column is, its AUC, and its tables."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch

from experiments.token_reward.run import (
    ARMS,
    ERRORS,
    KINDS,
    MEASURES,
    auc,
    by_line,
    found_table,
    measures,
    teacher_pairs,
    training_table,
    wrong_place,
)


def test_the_wrong_place_is_where_the_teacher_erred() -> None:
    """Of the kind that the teacher names, in the only step whose result is wrong, in either step alike."""
    seen: Counter[tuple[str, int]] = Counter()
    for pair in teacher_pairs(200):
        step, start, end = wrong_place(pair.rejected)
        number, line = int(pair.rejected[start:end]), pair.rejected.splitlines()[step - 1]
        assert (" at once clearly " in line) == (pair.error == "haste")
        assert line.endswith(f" {number} ." if pair.error == "haste" else " .")
        assert pair.rejected[start - 1] == (" " if pair.error == "haste" else "=")
        with pytest.raises(ValueError, match="no wrong step"):
            wrong_place(pair.chosen)
        seen[pair.error, step] += 1
    assert set(seen) == {(error, step) for error in ERRORS for step in (1, 2)}
    assert min(seen.values()) > 15


def test_the_wrong_place_by_hand() -> None:
    text = "first add 72 to 76 : 6+2=8 7+7=15 so 158 .\nsecond add 12 to 158 : 8+2=10 5+1+1=7 so 170 .\n"
    assert wrong_place(text) == (1, text.index("15 "), text.index("15 ") + 2)
    hasty = "first add 72 to 76 : 6+2=8 7+7=14 so 148 .\nsecond add 12 to 148 : i can see it 161 .\n"
    assert wrong_place(hasty) == (2, hasty.index("161"), hasty.index("161") + 3)


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
    other = one | {"steps haste 1 omega": [0.5, 0.0]}
    lines = found_table({"42": one, "43": other})
    assert lines[2].startswith("| ω⁻ | 0.500 (")
    assert "), 0.25 to 0.75 | 0.750 (" in lines[2]
    assert found_table({}) == ["no reward model was judged yet"]
    empty = {"42": one | {"tokens slip omega": []}}
    assert found_table(empty)[2].endswith("| – |")
    score = {"greedy_pass_at_1": 0.5, "haste": 0.5, "columns": 0.5}
    gains = {"OREAL, ω = 1": (0.4, 0.4), "OREAL, ω": (0.5, 0.6)}
    runs = {f"{arm}/{n}": {"pass_at_1": value, **score} for arm, of in gains.items() for n, value in enumerate(of)}
    assert set(gains) <= set(ARMS)
    table = training_table(runs)
    assert table[2] == "| OREAL, ω = 1 | 2 | 0.400 | 0.500 | 0.500 | 0.500 | – |"
    assert table[3] == "| OREAL, ω | 2 | 0.550 | 0.500 | 0.500 | 0.500 | +0.150 ± 0.635 |"
