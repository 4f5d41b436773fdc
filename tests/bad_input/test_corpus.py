"""Malformed input ends with status 2 and one line that names the place and says what to do, and leaves no results."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from redi_lab.cli import main
from tests.bad_input import checkpoints, configurations, rows, tokenizers
from tests.bad_input.world import Case, World
from tests.conftest import REPOSITORY

KINDS: dict[str, list[Case]] = {**configurations.KINDS, **rows.KINDS, **checkpoints.KINDS, **tokenizers.KINDS}


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=f"{kind}: {c.name}"[:120]) for kind, cases in KINDS.items() for c in cases]
)
def test_bad_input_is_refused_in_one_line(
    case: Case, qwen_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    monkeypatch.setenv("REDI_LAB_OUTPUTS", str(tmp_path / "outputs"))
    arguments = case.command(World(tmp_path / "input", qwen_folder))
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    screen = capsys.readouterr()
    assert ended.value.code == 2, screen
    assert re.fullmatch(rf"redi_lab: {case.message}.*\n", screen.err), screen.err
    assert "Traceback" not in screen.out
    written = [path.relative_to(tmp_path / "outputs") for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert [path for path in written if path.parts[0] not in ("cache", "multirun")] == []  # the latter is Hydra's
    assert list(working.iterdir()) == []


@pytest.mark.parametrize("kind", ["an override of train", "a line of JSON", "a model to train"])
def test_a_process_of_its_own_is_refused_alike(kind: str, qwen_folder: Path, tmp_path: Path) -> None:
    """What the tests in this process cannot see: the true exit status, and warnings of libraries on the screen."""
    case = KINDS[kind][0]
    arguments = case.command(World(tmp_path / "input", qwen_folder))
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "REDI_LAB_OUTPUTS": str(tmp_path / "outputs")}
    done = subprocess.run(
        [sys.executable, "-m", "redi_lab", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert re.fullmatch(rf"redi_lab: {case.message}.*\n", done.stderr), done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("{}\n")
    path.chmod(0)
    with pytest.raises(SystemExit):
        main(["grade", str(path)])
    assert "mine.jsonl: cannot be read: Permission denied" in capsys.readouterr().err


def test_no_case_says_nothing_of_the_message() -> None:
    """A pattern that matches any message would pass whatever is told."""
    for kind, cases in KINDS.items():
        for case in cases:
            assert not re.fullmatch(case.message, "something went wrong: at some place; do something"), (
                kind,
                case.name,
            )


def test_the_documentation_counts_the_cases() -> None:
    text = (REPOSITORY / "docs" / "bad-input.md").read_text(encoding="utf-8")
    for kind, cases in KINDS.items():
        assert re.search(rf"^\| {re.escape(kind)} \| {len(cases)} \|", text, re.MULTILINE), (kind, len(cases))
    total = sum(map(len, KINDS.values()))
    assert f"{total} malformed inputs" in text
