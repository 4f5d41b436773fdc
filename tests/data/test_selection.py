from __future__ import annotations

import random
from dataclasses import replace

import pytest

from redi_lab.data.selection import curate, hold_out, text_key
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
