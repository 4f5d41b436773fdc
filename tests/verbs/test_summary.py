"""summary.json that was torn or edited: told by those that need it, and listed as damaged, never as removable."""

from __future__ import annotations

from pathlib import Path

import pytest

from redi_lab.errors import UserError
from redi_lab.run.record import read_summary
from redi_lab.verbs.runs import find_runs, removable

TORN = ("", "{", "[]", "3", '"x"', "\ud83d", '{"name": 3}', '{"metrics": [1]}', '{"benchmarks": {"a": 3}}')
NESTED = ('{"evaluation": {"key": 3, "protocol": {}}}', '{"evaluation": 3}', "[" * 100_000)


@pytest.mark.parametrize("text", [*TORN, *NESTED], ids=lambda text: text[:40])
def test_a_torn_summary_is_told_and_kept(text: str, tmp_path: Path) -> None:
    folder = tmp_path / "outputs" / "run"
    folder.mkdir(parents=True)
    (folder / "summary.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UserError, match=r"run: no results folder with a readable summary\.json"):
        read_summary(folder)
    (run,) = find_runs(tmp_path / "outputs", tmp_path / "cache")
    assert (run.state, run.name, run.score) == ("damaged", "run", None)
    assert removable([run], interrupted=True) == []
