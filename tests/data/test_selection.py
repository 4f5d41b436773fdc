from __future__ import annotations

import random
from dataclasses import replace

import pytest

from redi_lab.data.pairing import Negatives
from redi_lab.data.selection import choose, curate, hold_out, text_key, with_far_negatives
from redi_lab.data.traces import Demonstration, Dropped, Generation, HeldOut, Pair, Problem
from redi_lab.errors import UserError

VERDICTS = {"+": True, "-": False, "?": None}


def problem(identity: str, verdicts: str, *, text: str | None = None, answer: str | None = None) -> Problem:
    """A problem whose generations are called id0, id1, … with the verdicts right (+), wrong (-) and unknown (?)."""
    generations = tuple(Generation(f"{identity}{i}", VERDICTS[v]) for i, v in enumerate(verdicts))
    return Problem(identity, text or f"problem {identity}", answer, generations)


@pytest.mark.parametrize(
    ("verdicts", "chosen", "rejected"),
    [("+-", 0, 1), ("-+", 1, 0), ("--+-", 2, 0), ("?+?-", 1, 3), ("+", 0, None), ("+?", 0, None), ("++", 0, None)],
)
def test_the_first_of_each_kind_is_taken(verdicts: str, chosen: int, rejected: int | None) -> None:
    rate = verdicts.count("+") / (len(verdicts) - verdicts.count("?"))
    corpus = curate([problem("a", verdicts)], source="s")
    pairs, counts = corpus.pairs, corpus.counts
    assert corpus.demonstrations == (Demonstration("a", "problem a", f"a{chosen}", pass_rate=rate),)
    if rejected is None:
        assert pairs == ()
        assert counts.without_pair == {"no incorrect generation": 1}
    else:
        assert pairs == (Pair("a", "problem a", f"a{chosen}", f"a{rejected}", pass_rate=rate),)
        assert counts.without_pair == {}


def test_every_row_is_counted_under_its_reason() -> None:
    rows: list[Problem | Dropped] = [
        problem("a", "+-"),
        problem("b", ""),
        problem("c", "--"),
        problem("d", "??"),
        problem("e", "+"),
        Dropped("f", "the reader's reason"),
    ]
    assert curate(rows, source="s").counts.as_dict() == {
        "rows_read": 6,
        "dropped": {"no generations": 1, "no correct generation": 2, "the reader's reason": 1},
        "held_out": 0,
        "demonstrations": 2,
        "without_demonstration": {},
        "pairs": 1,
        "without_pair": {"no incorrect generation": 1},
    }


def test_a_text_is_not_paired_with_itself() -> None:
    same = Problem("a", "p", None, (Generation("x", False), Generation("x", True)))
    corpus = curate([same], source="s")
    assert corpus.pairs == ()
    assert corpus.counts.without_pair == {"chosen and rejected are the same text": 1}


def test_ready_pairs_share_demonstrations_and_keep_all_pairs() -> None:
    rows = [
        Problem(str(i), "p", None, (Generation("good", True), Generation(bad, False)), is_ready_pair=True)
        for i, bad in enumerate(["bad", "worse"])
    ]
    corpus = curate(rows, source="s")
    assert [d.id for d in corpus.demonstrations] == ["0"]
    assert [p.rejected for p in corpus.pairs] == ["bad", "worse"]
    assert corpus.counts.without_demonstration == {"same problem and completion as an earlier row": 1}
    assert len(curate([replace(row, is_ready_pair=False) for row in rows], source="s").demonstrations) == 2


MANY = [problem(str(i), "+-", answer=str(i)) for i in range(50)]


def test_the_choice_of_held_out_problems_ignores_the_order_of_rows() -> None:
    mixed = random.Random(0).sample(MANY, len(MANY))
    chosen = hold_out(MANY, 10, seed=1)
    assert hold_out(mixed, 10, seed=1) == chosen
    assert len({item.id for item in chosen}) == 10
    assert set(hold_out(MANY, 10, seed=2)) != set(chosen)
    assert hold_out(MANY, 5, seed=1) == chosen[:5]


def test_held_out_matches_a_plain_sort_by_rank() -> None:
    everything = hold_out(MANY, len(MANY), seed=3)
    assert {item.id for item in everything} == {item.id for item in MANY}
    for num in range(len(MANY) + 1):
        assert hold_out(MANY, num, seed=3) == everything[:num]


def test_only_problems_with_an_answer_are_held_out() -> None:
    rows = [problem("a", "+"), problem("b", "+", answer="7")]
    assert hold_out(rows, 1, seed=0) == (HeldOut("b", "problem b", ("7",)),)
    with pytest.raises(UserError, match=r"f\.jsonl: num_heldout=2 problems were asked for, but only 1 different"):
        hold_out(rows, 2, seed=0, source="f.jsonl")
    with pytest.raises(UserError, match="num_heldout=-1"):
        hold_out(rows, -1, seed=0)


@pytest.mark.parametrize("seed", range(5))
def test_no_text_is_on_both_sides(seed: int) -> None:
    """30 rows of 10 texts that differ in white space: the two twins of each held-out row leave training with it."""
    rows = [problem(f"{i}{j}", "+-", text=f"what  is {i}" + " " * j, answer="x") for i in range(10) for j in range(3)]
    corpus = curate(rows, source="s", num_heldout=4, seed=seed)
    trained = {text_key(d.problem) for d in corpus.demonstrations} | {text_key(p.problem) for p in corpus.pairs}
    held = {text_key(item.problem) for item in corpus.held_out}
    assert len(held) == corpus.counts.held_out == 4
    assert not trained & held
    assert all(item.id.endswith("0") for item in corpus.held_out)  # the smallest id stands for its twins
    assert corpus.counts.dropped == {"same text as a held-out problem": 8}
    assert len(corpus.demonstrations) == 18


def test_an_empty_result_is_refused_with_the_counts() -> None:
    with pytest.raises(UserError, match=r"s: no row is left to train on, .*'no correct generation': 1"):
        curate([problem("a", "-")], source="s")


ATTEMPTED = Problem(
    "a",
    "p",
    None,
    tuple(
        Generation(text, right, error=None if right else text[:3])
        for text, right in [
            ("abc def", True),
            ("xyz", False),
            ("abcdef!", False),
            ("abc dxf ghi jkl", False),
            ("unkno", None),
        ]
    ),
)


@pytest.mark.parametrize(
    ("negatives", "rejected"),
    [
        ("first", "xyz"),
        ("nearest", "abcdef!"),  # two edits in seven characters
        ("longest_prefix", "abc dxf ghi jkl"),
        ("length_matched", "abcdef!"),
        ("other_problem", "xyz"),  # made of the corpus, not of the problem
    ],
)
def test_which_wrong_trace_is_rejected(negatives: Negatives, rejected: str) -> None:
    pair = choose(ATTEMPTED, negatives).pair
    assert isinstance(pair, Pair)
    assert (pair.chosen, pair.rejected, pair.error) == ("abc def", rejected, rejected[:3])


def test_random_negatives_follow_the_seed() -> None:
    def draw(seed: int) -> str:
        pair = choose(ATTEMPTED, "random", seed).pair
        assert isinstance(pair, Pair)
        return pair.rejected

    assert draw(1) == draw(1)
    assert {draw(seed) for seed in range(30)} == {"xyz", "abcdef!", "abc dxf ghi jkl"}


def test_far_negatives_are_made_of_right_traces_and_counted() -> None:
    rows = [problem("a", "+-"), problem("b", "+-"), problem("c", "+")]
    corpus = curate(rows, source="s")
    assert with_far_negatives(corpus, "nearest", 0) is corpus
    far = with_far_negatives(corpus, "other_problem", 0)
    assert [(pair.chosen, pair.rejected, pair.error) for pair in far.pairs] == [
        ("a0", "b0", "other_problem"),
        ("b0", "a0", "other_problem"),
    ]
    assert far.demonstrations == corpus.demonstrations
    assert [row.completion for row in far.negatives] == ["b0", "a0"]
    none = with_far_negatives(corpus, "shuffled_steps", 0)  # traces of a single line
    none.counts.check()
    assert (none.pairs, none.counts.pairs) == ((), 0)
    assert none.counts.without_pair == {
        "no wrong trace can be made of its right one": 2,
        "no incorrect generation": 1,
    }
