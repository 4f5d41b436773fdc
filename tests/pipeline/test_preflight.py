from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest

from redi_lab.config import load_config
from redi_lab.errors import UserError
from redi_lab.pipeline.preflight import check_engine

REMEDY = r"`make install-vllm` makes \.venv-vllm .* engine\.python=\.venv-vllm/bin/python$"


def check(*overrides: str) -> None:
    check_engine(load_config("train", list(overrides)))


def test_an_engine_without_vllm_is_told_how_to_get_it() -> None:
    """The tests' own Python has no vLLM: it lives in an environment of its own."""
    check()
    with pytest.raises(UserError, match=f"^engine=vllm: vLLM is not installed in this environment; {REMEDY}"):
        check("engine=vllm")
    with pytest.raises(UserError, match=rf"^engine\.python={sys.executable}: vLLM is not installed in that .*{REMEDY}"):
        check("engine=vllm", f"engine.python={sys.executable}")
    with pytest.raises(UserError, match=rf"^engine\.python=/nowhere cannot be run \(No such file .*\); {REMEDY}"):
        check("engine=vllm", "engine.python=/nowhere")


def test_an_environment_with_vllm_is_asked(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$@" > "$0.asked"\n')
    python.chmod(python.stat().st_mode | stat.S_IEXEC)
    check("engine=vllm", f"engine.python={python}")
    assert "find_spec('vllm')" in python.with_suffix(".asked").read_text()


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(UserError, match=r"^engine\.in_process=true: one replica"):
        check("engine=vllm", "engine.in_process=true", "engine.data_parallel_size=2")
    with pytest.raises(UserError, match=r"^engine\.tensor_parallel_size=0: must be a whole number of at least 1"):
        check("engine=vllm", "engine.tensor_parallel_size=0")
