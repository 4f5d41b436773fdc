"""The frame of HTML pages: texts are escaped, and nothing can run or be loaded."""

from __future__ import annotations

import re
from pathlib import Path

from redi_lab.figures.page import embedded_image, render_page


def test_a_page_forbids_scripts_and_the_network_and_escapes_its_title() -> None:
    page = render_page("</title><script>alert(1)</script>", "<p>body</p>")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "<script" not in page
    assert page.index("Content-Security-Policy") < page.index("<title>") < page.index("<p>body</p>")


def test_a_picture_is_held_by_the_page(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    assert (
        embedded_image('"<b>', tmp_path / "a.png") == '<img alt="&quot;&lt;b&gt;" src="data:image/png;base64,iVBORw==">'
    )
