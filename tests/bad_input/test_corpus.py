"""Malformed input ends with status 2 and one line that names the place and says what to do, and leaves no results."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from redi_lab.cli import main
from redi_lab.errors import UserError
from tests.bad_input import checkpoints, configurations, rows, tokenizers
from tests.bad_input.world import Case, World
from tests.conftest import REPOSITORY

KINDS: dict[str, list[Case]] = {**configurations.KINDS, **rows.KINDS, **checkpoints.KINDS, **tokenizers.KINDS}
SLOW_BEYOND = {
    "an override of train": 14,
    "settings of another's class": 4,
    "a sweep": 3,
    "an experiment's YAML": 5,
    "what `curate` reads": 5,
    "a model to train": 5,
    "a model to evaluate": 2,
    "a tokenizer to train with": 2,
}
"""Whole commands: of these kinds the default tests run the first few."""


def _parameters() -> list[object]:
    return [
        pytest.param(
            case,
            id=f"{kind}: {case.name}"[:120],
            marks=[pytest.mark.slow] if number >= SLOW_BEYOND.get(kind, len(cases)) else [],
        )
        for kind, cases in KINDS.items()
        for number, case in enumerate(cases)
    ]


@pytest.mark.parametrize("case", _parameters())
def test_bad_input_is_refused_in_one_line(
    case: Case, qwen_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    working = tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    monkeypatch.setenv("REDI_LAB_OUTPUTS", str(tmp_path / "outputs"))
    try:
        arguments = case.act(World(tmp_path / "input", qwen_folder))
    except UserError as error:
        line = str(error)
    else:
        assert arguments is not None, "was read without complaint"
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        screen = capsys.readouterr()
        assert ended.value.code == 2, screen
        assert "Traceback" not in screen.out
        assert screen.err.startswith("redi_lab: ")
        line = screen.err.removesuffix("\n")
    assert "\n" not in line
    assert all(part in line for part in case.parts), (case.parts, line)
    written = [path.relative_to(tmp_path / "outputs") for path in (tmp_path / "outputs").rglob("*") if path.is_file()]
    assert [path for path in written if path.parts[0] not in ("cache", "multirun")] == []  # the latter is Hydra's
    assert list(working.iterdir()) == []


def test_a_process_ends_with_status_2_and_nothing_else_on_the_screen(tmp_path: Path) -> None:
    """What the tests in this process cannot see: the true exit status, and warnings of libraries."""
    rows_file = World(tmp_path / "input", tmp_path).write("mine.jsonl", b'{"id": NaN}\n')
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "REDI_LAB_OUTPUTS": str(tmp_path / "outputs")}
    done = subprocess.run(
        [sys.executable, "-m", "redi_lab", "grade", str(rows_file)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"redi_lab: {rows_file}:1: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("{}\n")
    path.chmod(0)
    with pytest.raises(SystemExit):
        main(["grade", str(path)])
    assert "mine.jsonl" in capsys.readouterr().err


def test_every_case_names_a_place_and_none_stands_twice() -> None:
    for kind, cases in KINDS.items():
        assert all(case.parts and all(case.parts) for case in cases), kind
        assert len({case.name for case in cases}) == len(cases), kind


def test_the_documentation_names_the_kinds() -> None:
    text = (REPOSITORY / "docs" / "bad-input.md").read_text(encoding="utf-8")
    assert [kind for kind in KINDS if f"\n| {kind} |" not in text] == []
