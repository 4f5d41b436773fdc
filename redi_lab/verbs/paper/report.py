"""The report of a scale: one static page of all exhibits that were made, its tables as Markdown, and results.json."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from redi_lab.figures.page import embedded_image, render_page, table
from redi_lab.files import write_text

RESULTS = "results.json"
PAGE = "index.html"
TABLES = "tables.md"


def add_to_report(folder: Path, scale: str, name: str, content: Mapping[str, Any]) -> None:
    """Put an exhibit in the place of an earlier version of it, and write the report again.

    Args:
        folder: of the report; figures lie there.
        scale: shown in the title.
        name: of the exhibit.
        content: see `redi_lab.verbs.paper.exhibits.make_content`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / RESULTS
    made = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    made[name] = dict(content)
    ordered = dict(sorted(made.items(), key=lambda item: (item[0][0] == "f", len(item[0]), item[0])))
    write_text(file, json.dumps(ordered, indent=1, ensure_ascii=False) + "\n")
    render_report(folder, scale, ordered)


def render_report(folder: Path, scale: str, exhibits: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the page and the tables of exhibits; their figures lie in the folder."""
    title = f"REDI's tables and figures, scale={scale}"
    page, text = [f"<h1>{html.escape(title)}</h1>"], [f"# {title}"]
    for name, content in exhibits.items():
        heading, note = f"{_numbered(name)}: {content['title']}", _note(content)
        page += [f"<h2>{html.escape(heading)}</h2>", f'<p class="sub">{html.escape(note)}</p>']
        text += [f"## {heading}", note]
        if content["figure"]:
            picture = folder / content["figure"]
            page += [embedded_image(heading, picture), f"<p>For print: {html.escape(picture.stem)}.pdf</p>"]
            text.append(f"![{heading}]({picture.name})")
        page.append(table(content["heads"], content["rows"]))
        lines = [content["heads"], ["---"] * len(content["heads"]), *content["rows"]]
        text.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    write_text(folder / PAGE, render_page(title, "\n".join(page)))
    write_text(folder / TABLES, "\n\n".join(text) + "\n")


def _numbered(name: str) -> str:
    """`Table 2` of table2."""
    word = name.rstrip("0123456789")
    return f"{word.capitalize()} {name.removeprefix(word)}"


def _note(content: Mapping[str, Any]) -> str:
    """What differs from the paper, how uncertain it is, and when and from which code it was made."""
    seeds = f"seed{'s' * (len(content['seeds']) > 1)} {', '.join(map(str, content['seeds']))}"
    made = f"Made on {content['made']}, commit {(content['commit'] or 'unknown')[:12]}, {seeds}"
    return f"{content['differs']} {made}{'; ' * bool(content['interval'])}{content['interval']}."
