"""One row at a time: what is chosen, and under which name every generation ends."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from redi_lab.curation.curator import RowCurator, RowResult, RowRules
from redi_lab.curation.decontamination import NgramIndex
from redi_lab.data.selection import choose
from redi_lab.data.student_tokenizer import train_tokenizer
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import Dropped, Generation, Problem, Span, Step, TraceWeights
from tests.curation.rules import rules

PLAIN = rules()
VOTES: dict[str, tuple[bool | None, ...]] = {
    "+": (True, True),
    "-": (False, False),
    "?": (True, False),
    "0": (),
}
PAPER = rules(unknown="negative")


def row(votes: str, *, texts: list[str] | None = None, answer: str | None = "7") -> Problem:
    """A problem whose generations are right (+), wrong (-), disputed (?) and not judged (0)."""
    names = texts or [f"generation {place}" for place in range(len(votes))]
    generations = tuple(
        Generation(text, None, tuple((f"v{i}", word) for i, word in enumerate(VOTES[vote])))
        for text, vote in zip(names, votes, strict=True)
    )
    return Problem("a", "What is 3 + 4?", answer, generations, "olympiads")


def curated(votes: str, rules: RowRules = PLAIN, **changes: Any) -> RowResult:
    result = RowCurator(rules).curate(5, row(votes, **changes))
    assert result.generations.total() == result.num_generations == len(votes)
    return result


def places(result: RowResult) -> tuple[list[int], list[tuple[int, int]]]:
    pairs = [(pair["chosen_index"], pair["rejected_index"]) for pair in result.pairs]
    return [d["generation_index"] for d in result.demonstrations], pairs


@pytest.mark.parametrize(
    ("votes", "strict", "paper"),
    [
        ("+-", ([0], [(0, 1)]), ([0], [(0, 1)])),
        ("?+-", ([1], [(1, 2)]), ([1], [(1, 0)])),  # a disputed trace is a negative in the paper alone
        ("+?", ([0], []), ([0], [(0, 1)])),
        ("+0", ([0], []), ([0], [(0, 1)])),
        ("++", ([0], []), ([0], [])),
        ("-?", ([], []), ([], [])),
    ],
)
def test_unknown_is_a_negative_in_the_paper_alone(
    votes: str, strict: tuple[list[int], list[tuple[int, int]]], paper: tuple[list[int], list[tuple[int, int]]]
) -> None:
    assert places(curated(votes)) == strict
    assert places(curated(votes, PAPER)) == paper


def test_unknown_negatives_are_counted() -> None:
    result = curated("?+-", PAPER)
    assert result.unknown_negatives == {"verifiers disagree": 1}
    assert result.verdicts == {"right": 1, "wrong": 1, "verifiers disagree": 1}
    assert result.generations == {"used": 2, "wrong, but not chosen": 1}
    assert curated("?+-").generations == {"used": 2, "unknown: verifiers disagree": 1}


def test_the_columns_of_a_row() -> None:
    result = curated("-+")
    assert result.demonstrations == (
        {
            "id": "a",
            "problem": "What is 3 + 4?",
            "answer": "7",
            "source": "olympiads",
            "source_row": 5,
            "pass_rate": 0.5,
            "prompt_tokens": None,
            "completion": "generation 1",
            "generation_index": 1,
            "verdicts": '{"v0": true, "v1": true}',
            "error": None,
            "completion_tokens": None,
            "weight": 1.0,
            "spans": (),
            "steps": (),
        },
    )
    (pair,) = result.pairs
    assert (pair["chosen"], pair["rejected"]) == ("generation 1", "generation 0")
    assert pair["common_prefix"] == len("generation ")
    assert pair["length_ratio"] == 1.0
    assert pair["rejected_verdicts"] == '{"v0": false, "v1": false}'


@pytest.mark.parametrize(
    ("votes", "reason"),
    [("", "no generations"), ("--", "no correct generation"), ("??", "no correct generation")],
)
def test_rows_that_give_nothing(votes: str, reason: str) -> None:
    result = curated(votes)
    assert result.row_reason == reason
    assert places(result) == ([], [])


def test_a_readers_refusal_keeps_its_reason_and_its_generations() -> None:
    result = RowCurator(PLAIN).curate(0, Dropped("a", "source cn_k12", 3))
    assert result.row_reason == "source cn_k12"
    assert result.generations == {"row dropped: source cn_k12": 3}


def test_all_demonstrations_and_all_pairs() -> None:
    assert places(curated("+-+-", rules(demonstrations="all", pairs_per_problem=None))) == (
        [0, 2],
        [(0, 1), (0, 3), (2, 1), (2, 3)],
    )


def test_completeness_drops_before_anything_is_chosen() -> None:
    texts = ["<think>cut", "<think>a</think> 7", "<think>cut too", "<think>b</think> 8"]
    result = curated("+++-", rules(require_complete=True), texts=texts)
    assert places(result) == ([1], [(1, 3)])
    assert result.generations == {"used": 2, "truncated: no </think>": 2}
    kept = curated("-+", texts=["<think>cut", "7"])
    assert kept.generations == {"used": 1, "unknown: truncated": 1}
    everything = curated("+-", rules(require_complete=True), texts=["<think>", "<think>x"])
    assert everything.row_reason == "no generation passes the filters"


def test_a_refusal_without_an_answer_is_unknown_where_that_is_asked_for() -> None:
    curator = RowCurator(rules(require_answer=True), has_answer=lambda text: "box" in text)
    result = curator.curate(0, row("+--", texts=["box 7", "no idea", "box 8"]))
    assert places(result) == ([0], [(0, 2)])
    assert result.verdicts["no final answer"] == 1


def test_repeated_generations_are_not_used() -> None:
    result = curated("++-", rules(generation_duplicates="exact", demonstrations="all"), texts=["a b", "A  b", "c"])
    assert places(result) == ([0], [(0, 2)])
    assert result.generations["duplicate of an earlier generation of the problem"] == 1


def test_a_benchmarks_problem_is_dropped_and_shown() -> None:
    index = NgramIndex(4)
    index.add("math500/7", "what is 3 + 4?")
    result = RowCurator(PLAIN, benchmarks=index).curate(5, row("+-"))
    assert result.row_reason == "shares an n-gram with a benchmark"
    assert result.match is not None
    assert (result.match.source_row, result.match.id, result.match.benchmark_id) == (5, "a", "math500/7")
    assert result.match.ngram == "what is 3 +4"


def test_tokens_are_counted_as_training_counts_them() -> None:
    encoder = TraceEncoder(train_tokenizer(["abc"], 257))  # one token a byte, and one for the end of the turn
    problem = row("+--", texts=["abcd", "abxyz", "a" * 30])
    result = RowCurator(rules(max_completion_tokens=20), encoder).curate(0, problem)
    (demonstration,), (pair,) = result.demonstrations, result.pairs
    assert demonstration["completion_tokens"] == pair["chosen_tokens"] == len(encoder.completion_ids("abcd")) == 5
    assert (pair["rejected_tokens"], pair["common_prefix"], pair["length_ratio"]) == (6, 2, 6 / 5)
    assert result.generations["completion over 20 tokens"] == 1
    at_limit = RowCurator(rules(max_completion_tokens=5), encoder).curate(0, problem)
    assert at_limit.generations["used"] == 1  # a limit is inclusive
    long = RowCurator(rules(max_prompt_tokens=3), encoder).curate(0, problem)
    assert long.row_reason == "prompt over 3 tokens"
    sequence = demonstration["prompt_tokens"] + 5
    shorter = RowCurator(rules(max_sequence_tokens=sequence), encoder).curate(0, problem)
    assert shorter.generations[f"sequence over {sequence} tokens"] == 2


def test_the_papers_rules_are_those_of_the_training_source() -> None:
    """All rows of up to four generations: the same demonstration and pair as `choose` with unknown counted as wrong."""
    import itertools

    for number in range(5):
        for votes in itertools.product("+-?", repeat=number):
            problem = row("".join(votes))
            judged = Problem(
                "a",
                problem.problem,
                None,
                tuple(Generation(g.text, v == "+") for g, v in zip(problem.generations, votes, strict=True)),
            )
            expected = choose(judged)
            result = RowCurator(PAPER).curate(0, problem)
            right, pair = expected.demonstration, expected.pair
            assert [d["completion"] for d in result.demonstrations] == (
                [] if isinstance(right, str) else [right.completion]
            )
            assert [(p["chosen"], p["rejected"]) for p in result.pairs] == (
                [] if isinstance(pair, str) else [(pair.chosen, pair.rejected)]
            )


def test_all_negatives_need_no_right_generation() -> None:
    every = rules(negatives="all")
    result = curated("--", every)
    assert result.row_reason is None
    assert result.no_pair_reason == "no correct generation"
    assert [n["generation_index"] for n in result.negatives] == [0, 1]
    assert result.demonstrations == result.pairs == ()
    assert curated("?", every).row_reason == "no correct generation"  # unknown is no negative
    assert curated("?", rules(negatives="all", unknown="negative")).unknown_negatives == {"verifiers disagree": 1}


def test_a_negative_is_never_the_text_of_a_right_generation() -> None:
    result = curated("+--", rules(negatives="all"), texts=["same", "same", "other"])
    assert [n["completion"] for n in result.negatives] == ["other"]
    assert result.generations == {"used": 2, "wrong, but not chosen": 1}


def test_by_default_the_negatives_are_those_of_the_pairs() -> None:
    result = curated("+--", rules(pairs_per_problem=None))
    assert [n["generation_index"] for n in result.negatives] == [1, 2]
    assert curated("--").row_reason == "no correct generation"


@pytest.mark.parametrize("order", ["first", "random", "length_matched", "nearest", "longest_prefix"])
def test_weights_go_with_their_generations(order: str) -> None:
    """Whatever pairs with whatever: weight, spans and steps are told apart by their place."""

    def weights(place: int) -> TraceWeights:
        return TraceWeights(float(place), (Span(place, place + 1, 0.5),), (Step(0, 1 + place, None, -1.0),))

    plain = row("-+-++-")
    generations = tuple(replace(g, weights=weights(place)) for place, g in enumerate(plain.generations))
    every = rules(demonstrations="all", negatives="all", pairs_per_problem=None, pair_order=order)
    result = RowCurator(every).curate(5, replace(plain, generations=generations))
    assert (len(result.demonstrations), len(result.negatives), len(result.pairs)) == (3, 3, 9)
    for record in (*result.demonstrations, *result.negatives):
        assert TraceWeights.of_columns(record) == weights(record["generation_index"])
    for pair in result.pairs:
        for side in ("chosen", "rejected"):
            assert TraceWeights.of_columns(pair, f"{side}_") == weights(pair[f"{side}_index"])


def test_a_pass_rate_counts_all_that_are_judged_also_what_is_not_used() -> None:
    texts = ["a", "a", "a", "b", "c", "<think>"]  # right thrice, wrong once, disputed, cut off
    result = curated("+++-?-", rules(generation_duplicates="exact", require_complete=True), texts=texts)
    assert [record["pass_rate"] for record in (*result.demonstrations, *result.pairs, *result.negatives)] == [0.75] * 3
    ready = replace(row("+-"), is_ready_pair=True)
    assert RowCurator(PLAIN).curate(0, ready).pairs[0]["pass_rate"] is None
