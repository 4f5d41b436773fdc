from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from redi_lab.curation.duplicates import NearDuplicates, exact_key, signature
from redi_lab.data.jsonl import read_jsonl
from redi_lab.errors import UserError

PROBLEM = (
    "A baker makes 24 loaves of bread in the morning and sells two thirds of them before lunch. "
    "How many loaves of bread are left for the afternoon?"
)


def test_the_exact_key_is_blind_to_case_and_white_space_only() -> None:
    assert exact_key("Find  X.\n") == exact_key("find x.")
    assert exact_key("Find x") != exact_key("Find x.")
    assert exact_key("a b") != exact_key("ab")
    assert exact_key("\ud800") != exact_key("?")  # half a surrogate pair is no reason to stop


@pytest.mark.parametrize(
    "other",
    [
        PROBLEM.upper(),
        PROBLEM.replace(" ", "\n "),
        PROBLEM.replace("24", "$24$").replace("loaves", r"\text{loaves}"),
        PROBLEM.replace("How many", "Tell how many"),
        PROBLEM.replace("sells", "sold").replace(".", ";"),
    ],
)
def test_a_variant_is_a_near_duplicate(other: str) -> None:
    seen = NearDuplicates()
    assert seen.add("first", PROBLEM) is None
    assert seen.add("second", other) == "first"


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
    seen = NearDuplicates()
    assert seen.add("first", PROBLEM) is None
    assert seen.add("second", other) is None
    assert seen.add("third", PROBLEM) == "first"


def test_numbers_can_be_left_out_of_account() -> None:
    seen = NearDuplicates(same_numbers=False)
    assert seen.add("first", PROBLEM) is None
    assert seen.add("second", PROBLEM.replace("24", "27")) == "first"
    assert signature(PROBLEM) != signature(PROBLEM, same_numbers=False)


def test_the_most_similar_earlier_text_is_named() -> None:
    """Of 128 hash values, the second text shares 80 with the first, the third 100 with the first and 108 with it."""
    first, second, other = ([bytes([kind, place, 0, 0]) for place in range(128)] for kind in range(3))
    seen = NearDuplicates(0.75)
    assert seen.add_signature("first", b"".join(first)) is None
    assert seen.add_signature("second", b"".join(first[:80] + second[80:])) is None
    third = first[:100] + second[100:]
    assert seen.add_signature("third", b"".join(third)) == "second"
    assert seen.add_signature("fourth", b"".join(third[:80] + first[80:108] + other[108:])) == "first"


def test_a_duplicate_is_not_remembered() -> None:
    first, second = ([bytes([kind, place, 0, 0]) for place in range(128)] for kind in range(2))
    seen = NearDuplicates(0.75)
    assert seen.add_signature("first", b"".join(first)) is None
    assert seen.add_signature("second", b"".join(first[:100] + second[100:])) == "first"
    assert seen.add_signature("third", b"".join(first[:80] + second[80:])) is None  # 108 shared with the second


def test_short_texts_count_as_a_whole() -> None:
    seen = NearDuplicates()
    assert [seen.add(str(i), text) for i, text in enumerate(["", "x", "y", "X ", "\n", "!?"])] == [
        None,
        None,
        None,
        "1",
        "0",
        "0",
    ]


def test_the_similarity_is_estimated_well() -> None:
    """Two texts that share 400 of 600 n-grams: 2/3, with a standard error of 0.04."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=5)) for _ in range(600)]
    left, right = words[:500], words[100:]
    for threshold, is_found in ((0.5, True), (0.8, False)):
        seen = NearDuplicates(threshold)
        seen.add("left", " ".join(left))
        assert (seen.add("right", " ".join(right)) == "left") is is_found


def test_any_threshold_works_for_equal_texts() -> None:
    for threshold in (0.001, 0.05, 0.3, 0.95, 1.0):
        for num_perm in (16, 128):
            seen = NearDuplicates(threshold, num_perm=num_perm, ngram=3)
            assert seen.add("a", PROBLEM) is None
            assert seen.add_signature("b", signature(PROBLEM, num_perm, 3)) == "a"


def test_pairs_at_the_threshold_are_rarely_missed() -> None:
    """Signatures that agree in 104 of 128 places (0.81) at random: the index has to find nineteen in twenty."""
    rng = random.Random(0)
    found = 0
    for number in range(200):
        seen = NearDuplicates(0.8)
        values = [rng.randbytes(4) for _ in range(128)]
        seen.add_signature("first", b"".join(values))
        for place in rng.sample(range(128), 24):
            values[place] = rng.randbytes(4)
        found += seen.add_signature(str(number), b"".join(values)) == "first"
    assert found >= 185


def test_signatures_are_the_same_in_every_process() -> None:
    texts = [PROBLEM, "x", "", "Finde $x$ für α\u200b 𝑥"]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert list(pool.map(signature, texts)) == [signature(text) for text in texts]
    code = f"from redi_lab.curation.duplicates import signature; print(signature({PROBLEM!r}).hex())"
    environment = {"PYTHONHASHSEED": "7"}
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert printed.stdout.strip() == signature(PROBLEM).hex()


def test_long_texts_are_hashed_in_pieces() -> None:
    rng = random.Random(0)
    text = "".join(rng.choices("abcdefghij ", k=20_000))
    assert NearDuplicates().add("a", text) is None
    assert signature(text) != signature(text[:10_000])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threshold": 0.0}, "threshold=0.0: must be above 0"),
        ({"threshold": 1.5}, "threshold=1.5"),
        ({"threshold": float("nan")}, "threshold=nan"),
        ({"num_perm": 4}, "num_perm=4"),
        ({"ngram": 0}, "ngram=0"),
    ],
)
def test_nonsense_is_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        NearDuplicates(**arguments)  # type: ignore[arg-type]


def test_a_signature_of_other_options_is_refused() -> None:
    with pytest.raises(ValueError, match="the signature of a has 64 bytes, not 512"):
        NearDuplicates().add_signature("a", signature(PROBLEM, num_perm=16))


def test_on_real_problems(shared_data: Callable[[str], Path]) -> None:
    """The 40 of AMC23 are found among the 83; of 1,175 problems with many of one stem, none is merged with another."""
    seen = NearDuplicates()
    for _, row in read_jsonl(shared_data("eval/amc_83_official.jsonl")):
        assert seen.add(str(row["id"]), str(row["problem"])) is None
    matches = [
        seen.add(str(r["id"]), str(r["problem"])) for _, r in read_jsonl(shared_data("eval/amc23_40_qwen.jsonl"))
    ]
    assert len(matches) == 40
    assert all(matches)
    others = NearDuplicates()
    for name in ("math500", "olympiadbench"):
        for _, row in read_jsonl(shared_data(f"eval/{name}.jsonl")):
            assert others.add(str(row["id"]), str(row["problem"])) is None
