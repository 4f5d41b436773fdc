"""More devices than there are end a command in one line; `trainer.precision=auto` follows the hardware by a rule."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from redi_lab.config.compose import load_config
from redi_lab.errors import UserError
from redi_lab.run import devices
from redi_lab.run.devices import check_devices
from redi_lab.run.launched import Launch
from redi_lab.run.stages import resolve_chain


def check(number: int, accelerator: str, there: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    check_devices(OmegaConf.create({"trainer": {"devices": number, "num_nodes": 1, "accelerator": accelerator}}))


@pytest.mark.parametrize(
    ("devices", "accelerator", "there"), [(1, "gpu", 0), (8, "cpu", 0), (2, "auto", 0), (2, "auto", 2), (8, "cuda", 8)]
)
def test_enough(devices: int, accelerator: str, there: int, monkeypatch: pytest.MonkeyPatch) -> None:
    check(devices, accelerator, there, monkeypatch)


@pytest.mark.parametrize(
    ("devices", "accelerator", "there", "message"),
    [
        (2, "gpu", 0, r"^trainer\.devices=2: this machine has 0 CUDA devices .* set trainer\.devices=1"),
        (9, "auto", 8, r"^trainer\.devices=9: .* 8 CUDA devices .* set trainer\.devices=8"),
        (2, "mps", 0, r"^trainer\.devices=2: trainer\.accelerator=mps has 1 device"),
    ],
)
def test_too_few(devices: int, accelerator: str, there: int, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=message):
        check(devices, accelerator, there, monkeypatch)


@pytest.mark.parametrize(
    ("started", "devices", "num_nodes", "message"),
    [
        (4, 2, 2, None),
        (4, 4, 1, None),
        (4, 2, 1, r"^trainer\.devices=2 trainer\.num_nodes=1: 4 processes were started"),
        (3, 2, 2, r"^trainer\.devices=2 trainer\.num_nodes=2: 3 processes were started"),
        (1, 2, 2, r"^trainer\.num_nodes=2: start this command with torchrun or srun"),
    ],
)
def test_machines_are_as_many_as_were_started(
    started: int, devices: int, num_nodes: int, message: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    launch = None if started == 1 else Launch({"WORLD_SIZE": str(started), **place})
    monkeypatch.setattr("redi_lab.run.devices.current_launch", lambda: launch)
    trainer = {"devices": devices, "num_nodes": num_nodes, "accelerator": "cpu"}
    with nullcontext() if message is None else pytest.raises(UserError, match=message):
        check_devices(OmegaConf.create({"trainer": trainer}))


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
def test_the_precision_that_a_machine_trains_fastest_in(
    capability: tuple[int, int] | None,
    features: tuple[str, ...],
    accelerator: str,
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: capability is not None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(devices, "cpu_features", lambda: frozenset(features))
    assert devices.fastest_precision(accelerator) == expected


def test_records_and_fingerprints_hold_what_auto_became(
    qwen_folder: Path, own_rows: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fastest = "bf16-mixed"
    monkeypatch.setattr(devices, "fastest_precision", lambda accelerator: fastest)
    overrides = ["+experiment=own_model", f"model.path={qwen_folder}", f"data.path={own_rows}"]
    chain = resolve_chain(load_config("train", overrides), overrides)
    assert [stage.name for stage in chain] == ["own_model_sft", "own_model"]
    assert [stage.config.trainer.precision for stage in chain] == [fastest] * 2
    assert [stage.identity["settings"]["trainer"]["precision"] for stage in chain] == [fastest] * 2
    explicit = [*overrides, f"trainer.precision={fastest}"]
    assert resolve_chain(load_config("train", explicit), explicit)[-1].fingerprint == chain[-1].fingerprint
