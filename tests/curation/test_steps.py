"""Steps of a trace, and what rollouts say of the first wrong one."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest

from redi_lab.curation.steps import Split, chances, first_wrong, next_place, split


@pytest.mark.parametrize(
    ("rule", "text", "steps"),
    [
        ("lines", "a .\nb .\n\\boxed{1}", ["a .\n", "b .\n", "\\boxed{1}"]),
        ("lines", "\n a\n\n  b\n", ["\n a\n\n  ", "b\n"]),
        ("lines", "alone", ["alone"]),
        ("paragraphs", "a\nb\n \nc\n\n", ["a\nb\n \n", "c\n\n"]),
        ("sentences", "so 8 . It is 3.5! Is it?\n\nyes", ["so 8 . ", "It is 3.5! ", "Is it?\n\n", "yes"]),
        ("sentences", "first add 7 : 1+7=8 so 8 .\n\\boxed { 8 }", ["first add 7 : 1+7=8 so 8 .\n", "\\boxed { 8 }"]),
    ],
)
def test_steps_cover_a_text_and_none_is_blank(rule: Split, text: str, steps: list[str]) -> None:
    borders = [0, *split(text, rule)]
    assert [text[start:end] for start, end in pairwise(borders)] == steps


def test_one_rollout_by_hand() -> None:
    """Of one rollout none is right: 19/20 under Beta(1, 19), 1/2 under a uniform chance."""
    assert first_wrong({0: (0, 1)}, num_steps=1) == pytest.approx([0.95 / 1.45, 0.5 / 1.45])
    assert first_wrong({0: (1, 0)}, num_steps=1) == pytest.approx([0.05 / 0.55, 0.5 / 0.55])
    assert first_wrong({}, num_steps=3) == pytest.approx([0.25] * 4)
    assert first_wrong({1: (0, 0)}, num_steps=3) == pytest.approx([0.25] * 4)  # all were unknown


def test_belief_is_that_of_the_integrals() -> None:
    """A second implementation: each place's likelihood as an integral over the chance, each hypothesis by itself."""
    counts, num_steps, recovery = {0: (5, 3), 2: (1, 7), 3: (0, 6)}, 5, 0.1
    p = (np.arange(200_000) + 0.5) / 200_000
    b = 1 / recovery - 1

    def likelihood(right: int, wrong: int, *, is_lost: bool) -> float:
        density = b * (1 - p) ** (b - 1) if is_lost else np.ones_like(p)
        return float(math.comb(right + wrong, right) * np.mean(p**right * (1 - p) ** wrong * density))

    expected = np.array(
        [math.prod(likelihood(*c, is_lost=place >= s) for place, c in counts.items()) for s in range(num_steps + 1)]
    )
    assert first_wrong(counts, num_steps, recovery) == pytest.approx(expected / expected.sum(), rel=1e-4)


def test_right_rollouts_further_on_outweigh_an_unlucky_place() -> None:
    assert first_wrong({0: (0, 4), 1: (0, 4), 2: (0, 4)}, 3).argmax() == 0
    assert first_wrong({0: (0, 4), 1: (0, 4), 2: (3, 1), 3: (0, 4)}, 4).argmax() == 3


def test_halves_are_searched_and_a_place_is_asked_once() -> None:
    """Ten steps, the seventh wrong, certain rollouts: places 5, 8, 6 and 7 suffice, as in a binary search."""
    counts: dict[int, tuple[int, int]] = {}
    asked = []
    while (belief := first_wrong(counts, 10)).max() < 0.9:
        place = next_place(belief, counts)
        assert place is not None
        asked.append(place)
        counts[place] = (32, 0) if place < 7 else (0, 32)
    assert belief.argmax() == 7
    assert len(asked) == len(set(asked)) <= 5
    assert next_place(belief, dict.fromkeys(range(10), (0, 0))) is None


def test_chances_are_shares_of_known_verdicts() -> None:
    assert chances({0: (1, 3), 1: (0, 0)}, num_steps=3) == [0.25, None, None, 0.0]
