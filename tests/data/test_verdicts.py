"""Three values: right, wrong, and unknown with its reason."""

from __future__ import annotations

import pytest

from redi_lab.data.traces import Generation
from redi_lab.data.verdicts import decide, truncation


def generation(*words: bool | None, text: str = "text", finish: str | None = None) -> Generation:
    return Generation(text, None, tuple((f"v{i}", word) for i, word in enumerate(words)), finish)


@pytest.mark.parametrize(
    ("words", "correct", "reason"),
    [
        ([True, True], True, "right"),
        ([True], True, "right"),
        ([False, False], False, "wrong"),
        ([False], False, "wrong"),
        ([True, False], None, "verifiers disagree"),
        ([True, None], None, "a verifier gave no verdict"),
        ([False, None], None, "a verifier gave no verdict"),
        ([None], None, "a verifier gave no verdict"),
        ([], None, "no verifier was asked"),
    ],
)
def test_only_agreement_is_a_verdict(words: list[bool | None], correct: bool | None, reason: str) -> None:
    assert decide(generation(*words), is_truncated=False, has_answer=True) == (correct, reason)


def test_a_rejected_trace_that_was_cut_or_has_no_answer_is_unknown() -> None:
    rejected, accepted = generation(False, False), generation(True, True)
    assert decide(rejected, is_truncated=True, has_answer=True) == (None, "truncated")
    assert decide(rejected, is_truncated=False, has_answer=False) == (None, "no final answer")
    assert decide(accepted, is_truncated=True, has_answer=False) == (True, "right")


def test_the_verifiers_own_reason_is_kept() -> None:
    timed_out = Generation("text", None, (("grader", None),), unknown_reason="timeout")
    assert decide(timed_out, is_truncated=False, has_answer=True) == (None, "timeout")


@pytest.mark.parametrize(
    ("text", "opening", "reason"),
    [
        ("<think>a</think> b", "", None),
        ("<think>a", "", "no </think>"),
        ("<think>a</think> b <think> c", "", "no </think>"),
        ("a, without any thought", "", None),
        ("a", "<think>\n", "no </think>"),
        ("a</think> b", "<think>\n", None),
        ("<think>\na</think> b", "<think>\n", None),
        ("<|begin_of_thought|>a", "", "no <|end_of_thought|>"),
        (
            "<|begin_of_thought|>a<|end_of_thought|><|begin_of_solution|>b",
            "",
            "no <|end_of_solution|>",
        ),
    ],
)
def test_an_open_thought_is_told_by_its_tags(text: str, opening: str, reason: str | None) -> None:
    assert truncation(generation(text=text), opening) == reason


def test_the_finish_reason_counts_where_there_is_one() -> None:
    assert truncation(generation(finish="length")) == "finish reason length"
    assert truncation(generation(finish="stop")) is None
    assert truncation(generation(finish="stop", text="<think>")) == "no </think>"


def test_real_traces_are_cut_where_their_collectors_say_so(shared_data: object) -> None:
    """`closed` was told by the thought tags; every trace that it calls cut must be called so here."""
    import json

    path = shared_data("traces/sky_aime24.jsonl")  # type: ignore[operator]
    cut = total = 0
    for line in path.read_bytes().splitlines():
        for item in json.loads(line)["generations"]:
            if item["closed"] is None:
                continue
            total += 1
            is_cut = truncation(generation(text=item["text"])) is not None
            cut += is_cut
            if not item["closed"]:
                assert is_cut, item["run"]
    assert 0 < cut < total
