"""The GPU benchmark at toy size on a CPU: every section runs, and the report has a page."""

from __future__ import annotations

import json
from importlib.util import find_spec
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
    errors = {name: section["error"] for name, section in found.items() if "error" in section}
    peers = {"liger": "liger_kernel", "cut_cross_entropy": "cut_cross_entropy"}
    absent = {name: f"not measured: {it} is not installed" for name, it in peers.items() if find_spec(it) is None}
    assert {name: error for name, error in errors.items() if error != absent.get(name)} == {}
    assert out.with_suffix(".md").read_text(encoding="utf-8") in capsys.readouterr().out
