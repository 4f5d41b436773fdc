"""How fast a device was found to train, kept in a small file of the cache folder, and what a run was planned to take."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from redi_lab.files import write_text

RATES = "rates.json"
"""`{device: {precision: {width of the model: operations a second}}}`."""


@final
@dataclass(frozen=True)
class Planned:
    """What a training was planned to take, and where to write how fast it was.

    Attributes:
        peak_bytes: most memory on a device.
        base_bytes: of it, what interpreter and libraries hold before there is a model.
        operations: floating-point operations of the whole training.
        seconds: that it takes; None where no rate of this device was measured before.
        remedy: from the bytes that there are to what could be changed to fit into them; None if nothing can.
        rates: the file of measured rates.
        precision: of the training.
        width: hidden size of the model, for small ones are slower.
    """

    peak_bytes: int
    base_bytes: int
    operations: float
    seconds: float | None
    remedy: Callable[[int], str | None]
    rates: Path
    precision: str
    width: int


def device_name(device: torch.device) -> str:
    """Of a GPU as its driver has it; else the kind of device, for there is one of it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def measured_rate(file: Path, name: str, precision: str, width: int) -> float | None:
    """Operations a second of the model whose width is nearest, on a device whose name begins with `name`."""
    stored = _read(file)
    found = {
        int(measured): float(rate)
        for device, precisions in stored.items()
        if device.startswith(name)
        for measured, rate in precisions.get(precision, {}).items()
    }
    return found[min(found, key=lambda measured: abs(math.log(measured / width)))] if found else None


def remember_rate(file: Path, name: str, precision: str, width: int, rate: float) -> None:
    """Write a rate into the file, in place of an older one."""
    stored = _read(file)
    stored.setdefault(name, {}).setdefault(precision, {})[str(width)] = rate
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(stored, indent=1) + "\n")


def _read(file: Path) -> dict[str, dict[str, dict[str, float]]]:
    """What is stored; nothing where the file is damaged, for it can be measured again."""
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stored if isinstance(stored, dict) else {}
