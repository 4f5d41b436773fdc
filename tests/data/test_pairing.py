"""Orders of pairs on hand-made traces, and prefixes and distances against naive twins."""

from __future__ import annotations

import random
from typing import Any, get_args

import pytest

from redi_lab.config.schema.data import Negatives as NegativesSetting
from redi_lab.data.pairing import FarRule, Negatives, PairOrder, Trace, edit_distance, far_pairs
from redi_lab.data.pairing import choose_pairs as choose_ranked_pairs
from redi_lab.data.token_weights import common_prefix
from redi_lab.data.traces import Pair, Span, TraceWeights

POSITIVES = [Trace(0, "abcdefgh"), Trace(3, "xyz")]
NEGATIVES = [Trace(1, "abcd" * 9), Trace(2, "xYz"), Trace(4, "abcdefg!h")]


def choose_pairs(positives: list[Trace], negatives: list[Trace], **options: Any) -> list[tuple[int, int]]:
    plain: dict[str, Any] = {"order": "first", "per_problem": 1, "salt": ""}
    return choose_ranked_pairs(positives, negatives, **plain | options)


@pytest.mark.parametrize(
    ("order", "best"),
    [
        ("first", (0, 0)),
        ("length_matched", (1, 1)),  # 3 and 3 characters
        ("nearest", (0, 2)),  # one insertion in nine characters; xyz → xYz is one in three
        ("longest_prefix", (0, 2)),  # seven characters; the first negative shares four
    ],
)
def test_the_best_pair_of_each_order(order: PairOrder, best: tuple[int, int]) -> None:
    assert choose_pairs(POSITIVES, NEGATIVES, order=order) == [best]


def test_first_and_no_limit_is_all_of_them_in_order() -> None:
    every = [(i, j) for i in range(2) for j in range(3)]
    assert choose_pairs(POSITIVES, NEGATIVES, per_problem=None) == every
    assert choose_pairs(POSITIVES, NEGATIVES, per_problem=4) == every[:4]


@pytest.mark.parametrize("order", get_args(PairOrder))
def test_every_order_gives_every_pair_once(order: PairOrder) -> None:
    pairs = choose_pairs(POSITIVES, NEGATIVES, order=order, per_problem=None, salt="1/a")
    assert sorted(pairs) == [(i, j) for i in range(2) for j in range(3)]


def test_random_depends_on_the_salt_alone() -> None:
    def draw(salt: str) -> list[tuple[int, int]]:
        return choose_pairs(POSITIVES, NEGATIVES, order="random", per_problem=2, salt=salt)

    assert draw("1/a") == draw("1/a")
    assert len({tuple(draw(f"{seed}/a")) for seed in range(20)}) > 5


def test_a_text_is_not_paired_with_itself() -> None:
    assert choose_pairs([Trace(0, "x")], [Trace(1, "x"), Trace(2, "y")], order="nearest") == [(0, 1)]
    assert choose_pairs([Trace(0, "x")], [Trace(1, "x")]) == []
    assert choose_pairs([Trace(0, "x")], []) == []


def naive_prefix(left: str, right: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def test_common_prefix_of_texts_against_a_naive_twin() -> None:
    rng = random.Random(0)
    for _ in range(300):
        left, right = ("".join(rng.choices("ab", weights=(9, 1), k=rng.randint(0, 30))) for _ in range(2))
        assert common_prefix(left, right) == naive_prefix(left, right)


def test_tokens_are_measured_where_there_are_any() -> None:
    left = Trace(0, "same text", [1, 2, 3, 4])
    right = Trace(1, "same text!", [1, 2, 9])
    assert common_prefix(left.units, right.units) == 2
    assert edit_distance(left, right) == pytest.approx(2 / 4)  # one substitution, one deletion
    assert (len(left), len(right)) == (4, 3)
    assert common_prefix(left.units, left.units) == 4


def test_edit_distance_looks_at_the_beginning_alone() -> None:
    assert edit_distance(Trace(0, "a" * 3000), Trace(1, "a" * 2000 + "b" * 1000)) == 0


def values(alias: Any) -> set[str]:
    return {value for part in get_args(alias) for value in (values(part) or {part})} if get_args(alias) else set()


def test_the_setting_allows_the_rules_that_there_are() -> None:
    assert values(NegativesSetting) == values(Negatives) == {*get_args(PairOrder), *get_args(FarRule)}


def test_steps_are_shuffled_by_the_seed_and_nothing_is_lost() -> None:
    weights = TraceWeights(2.0, (Span(0, 1, 0.5),))
    pairs = [Pair(str(n), f"p{n}", "one\ntwo\nthree\nfour", "x", weights, weights) for n in range(20)]
    made = far_pairs(pairs, "shuffled_steps", 0)
    assert len(made) == 20
    for pair in made:
        assert sorted(pair.rejected.split("\n")) == sorted(pair.chosen.split("\n"))
        assert pair.rejected != pair.chosen
        assert (pair.chosen_weights, pair.rejected_weights) == (weights, TraceWeights(2.0))
        assert pair.error == "shuffled_steps"
    assert far_pairs(pairs, "shuffled_steps", 0) == made != far_pairs(pairs, "shuffled_steps", 1)
    two_lines = far_pairs([Pair("a", "p", "one\ntwo", "x")] * 9, "shuffled_steps", 0)
    assert {pair.rejected for pair in two_lines} == {"two\none"}


def test_what_no_far_rule_can_make_is_left_out() -> None:
    same_problem = [Pair("a", "p", "x\nx", "y"), Pair("b", "p", "z", "y")]
    for rule in get_args(FarRule):
        assert far_pairs(same_problem, rule, 0) == ()
        assert far_pairs([], rule, 0) == ()
    assert far_pairs(same_problem, "random", 0) == tuple(same_problem)
