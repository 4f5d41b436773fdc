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
    table = Table(box=None, pad_edge=False)
    table.add_column()
    table.add_column("rows", justify="right")
    table.add_column(justify="right")

    def add(total: int, counts: Mapping[str, int], prefix: str = "") -> None:
        for name, number in counts.items():
            table.add_row(prefix + name, f"{number:,}", f"{100 * number / total:.1f} %" if total else "")

    add(rows["read"], {"read": rows["read"]})
    add(rows["read"], rows["dropped"], "  dropped: ")
    add(rows["read"], {USED: rows["used"]})
    add(rows["used"], {"  with a pair": rows["used_with_pair"]})
    add(rows["used"], rows["used_without_pair"], "  without: ")
    table.add_row()
    table.add_row("", "[bold]generations[/bold]")
    add(generations["read"], {"read": generations["read"], USED: generations[USED]})
    add(generations["read"], generations["not_used"], "  not used: ")
    table.add_row()
    table.add_row("", "[bold]verdicts[/bold]")
    graded = verdicts["right"] + verdicts["wrong"] + sum(verdicts["unknown"].values())
    add(graded, {"right": verdicts["right"], "wrong": verdicts["wrong"]})
    add(graded, verdicts["unknown"], "unknown: ")
    add(graded, verdicts["unknown_used_as_negative"], "  used as negative: ")
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
