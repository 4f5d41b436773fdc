"""Malformed input ends with status 2 and one line that names the place and says what to do, and leaves no results."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from redi_lab.cli import main
from tests.bad_input import checkpoints, configurations, rows, tokenizers
from tests.bad_input.world import Case, World

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
