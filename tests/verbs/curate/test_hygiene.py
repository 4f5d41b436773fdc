"""`curate hygiene`: counts, and a page that holds hostile text as text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from redi_lab.cli import main

RIGHT = "Three and four are seven, so the answer is \\boxed{7}."
TEXTS = [
    (RIGHT, True),
    ("We multiply by mistake: \\boxed{12}.", False),
    ("Seven it is: \\boxed{7}.", False),  # the corpus is wrong
    ("<script>alert(1)</script> " + "wait , let me see . " * 60 + "\\boxed{12}", False),
]


def look(tmp_path: Path, name: str, *overrides: str) -> dict[str, Any]:
    file = tmp_path / "traces.jsonl"
    generations = [{"text": text, "correct": is_right} for text, is_right in TEXTS]
    rows = [{"id": f"<b>{i}", "problem": "What is 3 + 4?", "answer": "7", "generations": generations} for i in range(3)]
    rows.append({"id": "none", "problem": "What is 3 + 5?", "answer": "8", "generations": []})
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    main(["curate", "hygiene", "data=jsonl", f"data.path={file}", f"paths.output_dir={tmp_path / name}", *overrides])
    summary: dict[str, Any] = json.loads((tmp_path / name / "summary.json").read_text())
    return summary


def test_negatives_are_counted_and_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = look(tmp_path, "out", "examples=2", "curation.num_workers=0")["metrics"]
    assert (found["rows"], found["generations"], found["negatives"], found["with_a_flaw"]) == (4, 12, 9, 6)
    assert {flaw: n for flaw, n in found.items() if n == 3} == dict.fromkeys(
        ("unknown", "disputed", "regraded_right", "loop", "long"), 3
    )
    said = capsys.readouterr().out
    assert "regraded_right" in said
    assert "33.3%" in said
    page = (tmp_path / "out" / "hygiene.html").read_text()
    assert page.count("<h2>loop") == 2
    assert "<script>" not in page
    assert "&lt;b&gt;0, generation 3" in page


def test_without_our_grader_the_corpus_is_believed(tmp_path: Path) -> None:
    found = look(tmp_path, "out", "curation.grader=never", "curation.num_workers=0")["metrics"]
    assert found["regraded_right"] == found["disputed"] == 0
    assert found["loop"] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data=jsonl"], "data.path"),
        (["data=jsonl", "data.path=nowhere.jsonl"], "nowhere.jsonl"),
        (["data=jsonl", "data.path=x.jsonl", "examples=0"], "examples=0: must be at least 1"),
        (["data=jsonl", "data.path=x.jsonl", "curation.drop_negatives=[loops]"], "loop"),
    ],
)
def test_bad_input_is_a_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["curate", "hygiene", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
