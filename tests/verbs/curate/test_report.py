"""The screen shows every reason with its count, and the total that they add up to."""

from __future__ import annotations

import io

from rich.console import Console

from redi_lab.curation.account import Account
from redi_lab.curation.curator import RowCurator
from redi_lab.data.traces import Dropped, Problem
from redi_lab.verbs.curate.command import print_report
from tests.curation.rules import rules
from tests.curation.test_curator import row


def shown(*rows: Problem | Dropped) -> list[str]:
    account, curator = Account(), RowCurator(rules(unknown="negative"))
    for place, problem in enumerate(rows):
        account.add(curator.curate(place, problem))
    screen = io.StringIO()
    print_report("raw.jsonl", account.as_dict("characters"), Console(file=screen, width=120))
    return [" ".join(line.split()) for line in screen.getvalue().splitlines()]


def test_every_count_is_shown_with_its_share() -> None:
    lines = shown(row("?+-"), row("--"), row("+"), Dropped("x", "source cn_k12", 2))
    for line in (
        "raw.jsonl",
        "read 4 100.0 %",
        "dropped: source cn_k12 1 25.0 %",
        "dropped: no correct generation 1 25.0 %",
        "used 2 50.0 %",
        "used with pair 1 25.0 %",
        "used without pair: no incorrect generation 1 25.0 %",
        "read 8 100.0 %",
        "not used: row dropped: source cn_k12 2 25.0 %",
        "unknown: verifiers disagree 1 16.7 %",
        "unknown used as negative: verifiers disagree 1 16.7 %",
        "2 demonstrations, 1 pairs, 1 negatives",
    ):
        assert line in lines, line


def test_nothing_used_is_shown_too() -> None:
    lines = shown(Dropped("x", "no problem"))
    assert "used 0 0.0 %" in lines
    assert "0 demonstrations, 0 pairs, 0 negatives" in lines
