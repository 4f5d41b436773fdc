"""The account of a curation on the screen: every reason with its count and its share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_MOST_MATCHES = 10


def print_report(source: str, report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the content of report.json for people.

    Args:
        source: what the rows are called.
        report: see `Account.as_dict`.
        console: where to; None for the screen.
    """
    screen = console or Console()
    verdicts = report["verdicts"]
    graded = verdicts["right"] + verdicts["wrong"] + sum(verdicts["unknown"].values())
    table = Table(box=None, pad_edge=False)
    table.add_column()
    table.add_column("number", justify="right")
    table.add_column("share", justify="right")
    for section, whole in (
        ("rows", report["rows"]["read"]),
        ("generations", report["generations"]["read"]),
        ("verdicts", graded),
    ):
        table.add_row(f"[bold]{section}[/bold]")
        for name, value in report[section].items():
            title = name.replace("_", " ")
            counts = {title: value} if isinstance(value, int) else {f"{title}: {why}": n for why, n in value.items()}
            for shown, number in counts.items():
                table.add_row(f"  {shown}", f"{number:,}", f"{100 * number / whole:.1f} %" if whole else "")
    screen.print(f"\n{source}", highlight=False, soft_wrap=True)
    screen.print(table)
    shown = ", ".join(f"{number:,} {name}" for name, number in report["written"].items())
    screen.print(f"\n{shown}", highlight=False)
    for name, numbers in report["pairs"].items():
        if numbers is not None:
            shown = ", ".join(f"{key} {value:,.2f}" for key, value in numbers.items())
            screen.print(f"  {name.replace('_', ' ')}: {shown}", highlight=False)
    matches = report["benchmark_matches"]
    if matches:
        screen.print(f"\n{len(matches):,} rows share an n-gram with a benchmark (all of them in report.json):")
    for match in matches[:_MOST_MATCHES]:
        line = f"  row {match['source_row']} ({match['id']}) with {match['benchmark_id']}: {match['ngram']}"
        screen.print(line, highlight=False, markup=False, soft_wrap=True)
