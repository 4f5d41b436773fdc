"""The account of a curation on the screen: every reason with its count and its share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from redi_lab.curation.curator import USED

_MOST_MATCHES = 10


def print_report(source: str, report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the content of report.json for people.

    Args:
        source: what the rows are called.
        report: see `Account.as_dict`.
        console: where to; None for the screen.
    """
    screen = console or Console()
    rows, generations, verdicts = report["rows"], report["generations"], report["verdicts"]
    screen.print(f"\n{source}", highlight=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False)
    for title, justify in (("", "left"), ("rows", "right"), ("", "right")):
        table.add_column(title, justify=justify)  # type: ignore[arg-type, unused-ignore]
    _add(table, "read", rows["read"], rows["read"])
    for reason, number in rows["dropped"].items():
        _add(table, f"  dropped: {reason}", number, rows["read"])
    _add(table, USED, rows["used"], rows["read"])
    _add(table, "  with a pair", rows["used_with_pair"], rows["used"])
    for reason, number in rows["used_without_pair"].items():
        _add(table, f"  without: {reason}", number, rows["used"])
    _section(table, "generations")
    _add(table, "read", generations["read"], generations["read"])
    _add(table, USED, generations[USED], generations["read"])
    for reason, number in generations["not_used"].items():
        _add(table, f"  not used: {reason}", number, generations["read"])
    judged = verdicts["right"] + verdicts["wrong"] + sum(verdicts["unknown"].values())
    _section(table, "verdicts")
    _add(table, "right", verdicts["right"], judged)
    _add(table, "wrong", verdicts["wrong"], judged)
    for reason, number in verdicts["unknown"].items():
        _add(table, f"unknown: {reason}", number, judged)
    for reason, number in verdicts["unknown_used_as_negative"].items():
        _add(table, f"  used as negative: {reason}", number, judged)
    screen.print(table)
    written = report["written"]
    shown = ", ".join(f"{number:,} {name}" for name, number in written.items())
    screen.print(f"\n{shown}", highlight=False)
    for name, numbers in report["pairs"].items():
        if numbers is not None:
            shown = ", ".join(f"{key} {value:,.2f}" for key, value in numbers.items())
            screen.print(f"  {name.replace('_', ' ')}: {shown}", highlight=False)
    _print_matches(report["benchmark_matches"], screen)


def _section(table: Table, title: str) -> None:
    table.add_row("", "", "")
    table.add_row("", f"[bold]{title}[/bold]", "")


def _add(table: Table, name: str, number: int, total: int) -> None:
    table.add_row(name, f"{number:,}", f"{100 * number / total:.1f} %" if total else "")


def _print_matches(matches: list[Mapping[str, Any]], screen: Console) -> None:
    if matches:
        screen.print(f"\n{len(matches):,} rows share an n-gram with a benchmark (all of them in report.json):")
    for match in matches[:_MOST_MATCHES]:
        line = f"  row {match['source_row']} ({match['id']}) with {match['benchmark_id']}: {match['ngram']}"
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
