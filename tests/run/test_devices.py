"""More devices than there are end a command in one line."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from redi_lab.errors import UserError
from redi_lab.run.devices import check_devices


def check(devices: int, accelerator: str, there: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: there)
    check_devices(OmegaConf.create({"trainer": {"devices": devices, "accelerator": accelerator}}))


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
