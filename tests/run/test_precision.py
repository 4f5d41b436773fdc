"""`trainer.precision=auto` follows the hardware by a rule, and what it becomes is what is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from redi_lab.config.compose import load_config
from redi_lab.run import precision
from redi_lab.run.stages import resolve_chain


@pytest.mark.parametrize(
    ("capability", "features", "accelerator", "expected"),
    [
        ((8, 0), (), "auto", "bf16-mixed"),
        ((7, 5), ("amx_bf16",), "auto", "32-true"),  # the GPU trains, whatever the processor can do
        ((9, 0), (), "cpu", "32-true"),
        ((9, 0), ("amx_bf16",), "cpu", "bf16-mixed"),
        (None, ("avx2", "avx512_bf16"), "auto", "bf16-mixed"),
        (None, ("avx2", "avx512f"), "auto", "32-true"),
        (None, ("amx_bf16",), "mps", "32-true"),
    ],
)
def test_the_rule(
    capability: tuple[int, int] | None,
    features: tuple[str, ...],
    accelerator: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(precision, "cpu_features", lambda: frozenset(features))
    assert precision.fastest_precision(accelerator) == expected


@pytest.mark.parametrize("fastest", ["bf16-mixed", "32-true"])
def test_records_and_fingerprints_hold_what_auto_became(
    fastest: str, qwen_folder: Path, own_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "fastest_precision", lambda accelerator: fastest)
    overrides = ["+experiment=own_model", f"model.path={qwen_folder}", f"data.path={own_rows}"]
    chain = resolve_chain(load_config("train", overrides), overrides)
    assert [stage.name for stage in chain] == ["own_model_sft", "own_model"]
    assert [stage.config.trainer.precision for stage in chain] == [fastest] * 2
    assert [stage.identity["settings"]["trainer"]["precision"] for stage in chain] == [fastest] * 2
    explicit = [*overrides, f"trainer.precision={fastest}"]
    assert resolve_chain(load_config("train", explicit), explicit)[-1].fingerprint == chain[-1].fingerprint
