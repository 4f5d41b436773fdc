"""The account adds up, and says so when it does not."""

from __future__ import annotations

from collections import Counter

import pytest

from redi_lab.curation.account import Account
from redi_lab.curation.curator import RowCurator, RowResult
from redi_lab.data.traces import Dropped, Problem
from tests.curation.rules import rules
from tests.curation.test_curator import row


def test_every_row_and_generation_is_counted_once() -> None:
    curator, account = RowCurator(rules()), Account()
    rows: list[Problem | Dropped] = [row("+-"), row("+?"), row("--"), Dropped("x", "source cn_k12", 2), row("")]
    for place, problem in enumerate(rows):
        account.add(curator.curate(place, problem))
    report = account.as_dict("characters")
    assert report["rows"] == {
        "read": 5,
        "used": 2,
        "dropped": {"no correct generation": 1, "no generations": 1, "source cn_k12": 1},
        "used_with_pair": 1,
        "used_without_pair": {"no incorrect generation": 1},
    }
    assert report["generations"]["read"] == 8
    assert report["generations"]["used"] + sum(report["generations"]["not_used"].values()) == 8
    assert report["verdicts"]["unknown"] == {"verifiers disagree": 1}
    assert report["written"] == {"demonstrations": 2, "pairs": 1, "negatives": 1}
    assert report["pairs"]["length_ratio"]["p50"] == 1.0


def test_without_pairs_there_is_no_statistic() -> None:
    assert Account().as_dict("tokens")["pairs"] == {"common_prefix_tokens": None, "length_ratio": None}


def test_numbers_that_do_not_add_up_are_a_defect() -> None:
    account = Account()
    account.add(RowResult("lost", 3, Counter({"used": 1})))
    with pytest.raises(ValueError, match=r"differ: \{'generations': \(3, 1\)\}"):
        account.as_dict("tokens")
