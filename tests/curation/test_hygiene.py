"""Each flaw by a trace that has it and one that does not; and that dropping it is counted."""

from __future__ import annotations

from typing import Any

import pytest

from redi_lab.config.schema.curation import Flaw
from redi_lab.curation.curator import RowCurator
from redi_lab.curation.hygiene import FLAWS, GRADER, is_in_another_language, loops
from redi_lab.data.traces import Generation, Problem
from tests.curation.rules import rules

RIGHT = "First we add three and four, which is seven, and so the answer is \\boxed{7}."
WRONG = "We multiply the two numbers by mistake and find \\boxed{12}, which nobody should believe."


def generation(text: str, *words: bool | None, finish: str | None = None) -> Generation:
    return Generation(text, None, tuple((f"v{i}", word) for i, word in enumerate(words)), finish)


def flaws(negative: Generation, *right: str, problem: str = "What is 3 + 4?") -> tuple[Flaw, ...]:
    positives = tuple(generation(text, True) for text in right or (RIGHT,))
    curator = RowCurator(rules(require_answer=True), has_answer=lambda text: "boxed" in text)
    ((place, found, names),) = curator.judge(Problem("a", problem, "7", (*positives, negative)))
    assert (place, found) == (len(positives), negative)
    return names


def looping(phrase: str = "wait , let me check that again . ") -> str:
    return "So we begin with the sum of the two numbers. " + phrase * 40 + "\\boxed{12}"


CASES: dict[Flaw, Generation] = {
    "cut_off": generation(WRONG, False, finish="length"),
    "no_answer": generation("We multiply the two numbers by mistake and then go home.", False),
    "unknown": generation(WRONG, None),
    "disputed": generation(WRONG, True, False),
    "regraded_right": Generation(WRONG, None, (("v0", False), (GRADER, True))),
    "near_positive": generation(RIGHT.replace("7", "8"), False),
    "loop": generation(looping(), False),
    "other_language": generation("我们把两个数字错误地相乘" * 3 + " \\boxed{12}", False),
    "long": generation(WRONG * 4, False),
}
ALONG: dict[Flaw, set[Flaw]] = {
    "cut_off": {"unknown"},  # what was cut off might have become right
    "no_answer": {"unknown"},
    "disputed": {"unknown"},
    "regraded_right": {"unknown", "disputed"},
    "loop": {"long"},
}


def test_a_plain_negative_has_no_flaw() -> None:
    assert flaws(generation(WRONG, False)) == ()


@pytest.mark.parametrize("flaw", FLAWS)
def test_each_flaw_is_found(flaw: Flaw) -> None:
    assert set(flaws(CASES[flaw])) == {flaw} | ALONG.get(flaw, set())


def test_our_grader_alone_disputes_nothing() -> None:
    """Where the corpus has no verdict, there is nothing that ours could contradict."""
    assert flaws(Generation(WRONG, None, ((GRADER, False),))) == ()


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("wait , " * 100, True),
        ("the same short answer " * 5, False),  # too short to tell
        (" ".join(map(str, range(400))), False),
        (" ".join(map(str, range(400))) + " and again" * 300, True),
        ("and again " * 300 + " ".join(map(str, range(400))), False),  # it got out of the loop
        ("", False),
    ],
)
def test_loops(text: str, answer: bool) -> None:
    assert loops(text) is answer


@pytest.mark.parametrize(
    ("text", "problem", "answer"),
    [
        ("Let α and Δ be 𝑥 ℝ ∑ 3", "", False),
        ("Résumé naïve œuvre", "", False),
        ("Следовательно", "What is it?", True),
        ("Следовательно", "Чему равно?", False),
        ("a" * 96 + "数" * 4, "", False),
        ("a" * 94 + "数" * 6, "", True),
        ("1 + 2 = 3", "", False),
    ],
)
def test_other_languages(text: str, problem: str, answer: bool) -> None:
    assert is_in_another_language(text, problem) is answer


def curated(dropped: tuple[Flaw, ...], **changes: Any) -> dict[str, int]:
    generations = (generation(RIGHT, True), CASES["loop"], CASES["long"], generation(WRONG, False))
    everything = rules(drop_negatives=dropped, negatives="all", **changes)
    result = RowCurator(everything, has_answer=lambda text: True).curate(0, Problem("a", "3 + 4?", "7", generations))
    assert result.generations.total() == 4
    return dict(result.generations)


def test_what_is_dropped_is_counted_under_its_first_flaw() -> None:
    assert curated(()) == {"used": 4}
    assert curated(("loop",)) == {"used": 3, "negative dropped: loop": 1}
    assert curated(("long",)) == {"used": 2, "negative dropped: long": 2}
    assert curated(("long", "loop")) == {"used": 2, "negative dropped: loop": 1, "negative dropped: long": 1}


def test_right_traces_are_never_dropped_for_a_flaw() -> None:
    row = Problem("a", "3 + 4?", "7", (generation(looping(), True), generation(WRONG, False)))
    result = RowCurator(rules(drop_negatives=tuple(FLAWS)), has_answer=lambda text: True).curate(0, row)
    assert [one["completion"] for one in result.demonstrations] == [looping()]
