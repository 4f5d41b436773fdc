"""The frame of the HTML pages without scripts: one file each, which loads nothing from anywhere.

What goes into `body` is HTML: escape what a model or a user wrote.
"""

from __future__ import annotations

import base64
import html
from pathlib import Path

PLAIN_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1a1a1a; max-width: 75rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.1rem; margin-top: 2rem; } img { max-width: 100%; display: block; }
img { break-inside: avoid; } table { border-collapse: collapse; }
pre { background: #f4f4f4; padding: .6rem; overflow-x: auto; }
th, td { text-align: left; padding: .35rem .8rem; border-bottom: 1px solid #ddd; vertical-align: top;
         overflow-wrap: anywhere; }
thead th { border-bottom: 2px solid #888; } tbody th { font-weight: 500; color: #555; } a { color: #0b61a4; }
"""
"""Headings, tables and pictures."""


def render_page(title: str, body: str, style: str = PLAIN_STYLE) -> str:
    """A page that may neither run scripts nor load anything: its content security policy forbids it.

    Args:
        title: plain text.
        body: HTML.
        style: CSS.
    """
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{html.escape(title)}</title>
<style>{style}</style>
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
