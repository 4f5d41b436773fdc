"""Limits and repetitions, each under its own reason."""

from __future__ import annotations

from redi_lab.curation.filters import Limits, SeenProblems, problem_key, repeated_texts

LONG = "Let a and b be positive integers with a + b = 17. Find the largest possible value of the product a b."


def test_a_limit_is_inclusive_and_named() -> None:
    limits = Limits(prompt=10, completion=20, sequence=25)
    assert limits.prompt_exceeded(10) is None
    assert limits.prompt_exceeded(11) == "prompt over 10 tokens"
    assert limits.exceeded(5, 20) is None
    assert limits.exceeded(1, 21) == "completion over 20 tokens"
    assert limits.exceeded(6, 20) == "sequence over 25 tokens"
    assert not Limits().is_set
    assert Limits().exceeded(10**9, 10**9) is None


def test_repeated_generations() -> None:
    texts = ["It is 7.", "it  is 7.", "It is 8.", LONG, LONG.replace("largest", "greatest")]
    assert repeated_texts(texts, "keep", 0.8) == [None] * 5
    same = "duplicate of an earlier generation of the problem"
    assert repeated_texts(texts, "exact", 0.8) == [None, same, None, None, None]
    near = repeated_texts(texts, "near", 0.7)
    assert near[1] == same
    assert near[4] == "near duplicate of an earlier generation of the problem"


def test_problems_are_compared_with_earlier_ones() -> None:
    seen = SeenProblems(0.7)

    def reason(text: str, how: str) -> str | None:
        return seen.reason_to_drop(problem_key(text, how), text)  # type: ignore[arg-type]

    assert reason(LONG, "near") is None
    assert reason(LONG.upper(), "near") == "duplicate of an earlier problem"
    assert reason(LONG.replace("largest", "greatest"), "near") == "near duplicate of an earlier problem"
    assert reason(LONG.replace("17", "19"), "near") is None  # other numbers: another problem
    assert reason(LONG, "keep") is None
