"""The GPU benchmark at toy size on a CPU: every section runs, and the report has a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.gpu.measure import main
from benchmarks.gpu.sections import SECTIONS


@pytest.mark.slow
def test_every_section_runs_at_toy_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "gpu.json"
    main(["--tiny", "--out", str(out)])
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found.keys() == {"tests", *SECTIONS}
    assert found["tests"]["code"] == 0
    assert {name: section["error"] for name, section in found.items() if "error" in section} == {}
    assert out.with_suffix(".md").read_text(encoding="utf-8") in capsys.readouterr().out
