"""The HTML pages of the lab: one file each, one stylesheet (page.css), and nothing that is loaded from anywhere.

What goes into `body` is HTML: escape what a model or a user wrote.
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

_STYLE = Path(__file__).with_name("page.css")


def render_page(title: str, body: str, script: str = "") -> str:
    """A page whose content security policy forbids to load anything, and every script but its own.

    Args:
        title: plain text.
        body: HTML.
        script: JavaScript that runs at the end of the page.
    """
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    if script:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        policy, body = f"{policy}; script-src 'sha256-{digest}'", f"{body}\n<script>{script}</script>"
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{_STYLE.read_text(encoding="utf-8")}</style>
</head>
<body>
{body}
</body>
</html>
"""


def embedded_image(alt: str, picture: Path) -> str:
    """An image element that holds the PNG file itself; `alt` is plain text."""
    data = base64.b64encode(picture.read_bytes()).decode("ascii")
    return f'<img alt="{html.escape(alt)}" src="data:image/png;base64,{data}">'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of plain text; the first cell of a row is its heading."""
    head = "".join(f"<th>{html.escape(text)}</th>" for text in heads)
    body = "".join(
        f"<tr><th>{html.escape(first)}</th>{''.join(f'<td>{html.escape(cell)}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
