"""SIGTERM while the lab is still starting ends like a later one: status 75 and one line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

TRAIN, EVALUATE = ["init_from=null", "loss=sft"], ["evaluate", "checkpoint=."]
CASES = [
    (TRAIN, "omegaconf"),
    pytest.param(TRAIN, "redi_lab.config.compose", marks=pytest.mark.slow),
    pytest.param(TRAIN, "torch", marks=pytest.mark.slow),
    pytest.param(TRAIN, "redi_lab.run.stages", marks=pytest.mark.slow),
    pytest.param(EVALUATE, "numpy", marks=pytest.mark.slow),
    pytest.param(EVALUATE, "redi_lab.run.evaluation", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("verb", "module"), CASES)
def test_a_signal_during_start_up(verb: list[str], module: str, tmp_path: Path) -> None:
    """Python reports every import, so the signal comes at a known place on any machine."""
    if verb[0] == "evaluate":
        (tmp_path / "config.json").write_text("{}")
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "REDI_LAB_OUTPUTS": str(tmp_path / "outputs")}
    command = [sys.executable, "-v", "-m", "redi_lab", *verb]
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(f"import '{module}'"):
                break
        else:
            pytest.fail(f"{module} was never imported")
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
    assert process.returncode == 75
    assert rest.rstrip().endswith("redi_lab: SIGTERM; give the same command again")
    assert not (tmp_path / "outputs" / "runs").exists()
