from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from redi_lab.curation.duplicates import SeenTexts, TextKey, signature, text_key
from redi_lab.data.jsonl import read_jsonl

PROBLEM = (
    "A baker makes 24 loaves of bread in the morning and sells two thirds of them before lunch. "
    "How many loaves of bread are left for the afternoon?"
)
SAME, SIMILAR = "duplicate of an earlier problem", "near duplicate of an earlier problem"


class Seen:
    """Problems that are compared nearly, or with other options of `text_key`."""

    def __init__(self, threshold: float = 0.8) -> None:
        self._seen = SeenTexts("problem", threshold)
        self._names = itertools.count()

    def add(self, text: str, how: str = "near", **options: bool) -> str | None:
        return self._seen.reason_to_drop(text_key(text, how, **options))  # type: ignore[arg-type]

    def add_signature(self, values: list[bytes]) -> bool:
        return self._seen.reason_to_drop(TextKey(str(next(self._names)), b"".join(values))) is not None


def test_exact_duplicates_may_differ_in_case_and_white_space_only() -> None:
    seen = Seen()
    assert seen.add("Find  X.\n", "exact") is None
    assert seen.add("find x.", "exact") == SAME
    assert [seen.add(text, "exact") for text in ("Find x", "a b", "ab", "?")] == [None] * 4
    assert seen.add("\ud800", "exact") is None  # half a surrogate pair is no reason to stop
    assert seen.add("Find x", "keep") is None


@pytest.mark.parametrize(
    "other",
    [
        PROBLEM.replace("24", "$24$").replace("loaves", r"\text{loaves}"),
        PROBLEM.replace("How many", "Tell how many"),
        PROBLEM.replace("sells", "sold").replace(".", ";"),
    ],
)
def test_a_variant_is_a_near_duplicate(other: str) -> None:
    seen = Seen()
    assert seen.add(PROBLEM) is None
    assert seen.add(PROBLEM.upper()) == SAME
    assert seen.add(other) == SIMILAR


@pytest.mark.parametrize(
    "other",
    [
        PROBLEM.replace("24", "27"),  # the same template, another problem
        PROBLEM.replace("24 loaves", "24 or 30 loaves"),
        "A farmer has 24 sheep and sells two thirds of them. How many sheep does the farmer have now?",
        "",
        "24",
    ],
)
def test_another_problem_is_none(other: str) -> None:
    seen = Seen()
    assert seen.add(PROBLEM) is None
    assert seen.add(other) is None


def test_numbers_can_be_left_out_of_account() -> None:
    seen = Seen()
    assert seen.add(PROBLEM, same_numbers=False) is None
    assert seen.add(PROBLEM.replace("24", "27"), same_numbers=False) == SIMILAR
    assert signature(PROBLEM) != signature(PROBLEM, same_numbers=False)


def test_a_duplicate_is_not_remembered() -> None:
    first, second = ([bytes([kind, place, 0, 0]) for place in range(128)] for kind in range(2))
    seen = Seen(0.75)
    assert not seen.add_signature(first)
    assert seen.add_signature(first[:100] + second[100:])
    assert not seen.add_signature(first[:80] + second[80:])  # it shares 108 with the second


def test_short_texts_count_as_a_whole() -> None:
    seen = Seen()
    texts = ["", "x", "y", "X ", "\n", "!?"]
    assert [seen.add(text) for text in texts] == [None, None, None, SAME, SAME, SIMILAR]


def test_the_similarity_is_estimated_well() -> None:
    """Two texts that share 400 of 600 n-grams: 2/3, with a standard error of 0.04."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(600)]
    left, right = " ".join(words[:500]), " ".join(words[100:])
    for threshold, expected in ((0.5, SIMILAR), (0.8, None)):
        seen = Seen(threshold)
        seen.add(left)
        assert seen.add(right) == expected


@pytest.mark.parametrize("threshold", [0.001, 0.05, 0.3, 0.95, 1.0])
def test_any_threshold_works_for_equal_texts(threshold: float) -> None:
    seen = Seen(threshold)
    assert seen.add(PROBLEM) is None
    assert seen.add(f"${PROBLEM}$") == SIMILAR


def test_pairs_at_the_threshold_are_rarely_missed() -> None:
    """Signatures that agree in 104 of 128 places (0.81) at random: the index has to find nineteen in twenty."""
    rng = random.Random(0)
    found = 0
    for _ in range(200):
        seen = Seen(0.8)
        values = [rng.randbytes(4) for _ in range(128)]
        seen.add_signature(values)
        for place in rng.sample(range(128), 24):
            values[place] = rng.randbytes(4)
        found += seen.add_signature(values)
    assert found >= 185


def test_signatures_are_the_same_in_every_process() -> None:
    assert hashlib.sha256(signature(PROBLEM)).hexdigest()[:16] == "4aa8da3c66443fc9"


def test_long_texts_are_hashed_in_pieces() -> None:
    text = "".join(random.Random(0).choices("abcdefghij ", k=20_000))
    assert Seen().add(text) is None
    assert signature(text) != signature(text[:10_000])


def test_on_real_problems(shared_data: Callable[[str], Path]) -> None:
    """The 40 of AMC23 are found among the 83."""
    seen = Seen()
    for _, row in read_jsonl(shared_data("eval/amc_83_official.jsonl")):
        assert seen.add(str(row["problem"])) is None
    matches = [seen.add(str(row["problem"])) for _, row in read_jsonl(shared_data("eval/amc23_40_qwen.jsonl"))]
    assert len(matches) == 40
    assert all(matches)


@pytest.mark.parametrize("name", ["math500", pytest.param("olympiadbench", marks=pytest.mark.slow)])
def test_real_problems_of_one_stem_are_not_merged(name: str, shared_data: Callable[[str], Path]) -> None:
    seen = Seen()
    for _, row in read_jsonl(shared_data(f"eval/{name}.jsonl")):
        assert seen.add(str(row["problem"])) is None
