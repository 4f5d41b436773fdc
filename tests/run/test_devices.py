"""More devices than there are end a command in one line."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from omegaconf import OmegaConf

from redi_lab.errors import UserError
from redi_lab.run.devices import check_devices
from redi_lab.run.launched import Launch


def check(devices: int, accelerator: str, there: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    check_devices(OmegaConf.create({"trainer": {"devices": devices, "num_nodes": 1, "accelerator": accelerator}}))


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
