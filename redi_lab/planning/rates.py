"""How fast devices were found to train, in a file of the cache folder, and what a run was planned to take."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch

from redi_lab.files import write_text

Stored = dict[str, dict[str, dict[str, float]]]
"""Operations a second by device, precision and hidden size of the model, for small ones are slower."""


@final
@dataclass(frozen=True)
class Rates:
    """The rates that trainings found.

    Args:
        cache_dir: the folder of their file.
    """

    cache_dir: Path

    def find(self, device: str, precision: str, width: int) -> float | None:
        """Of the model whose width is nearest, on a device whose name begins with `device`."""
        found = {
            int(measured): rate
            for name, precisions in self._read().items()
            if name.startswith(device)
            for measured, rate in precisions.get(precision, {}).items()
        }
        return found[min(found, key=lambda measured: abs(math.log(measured / width)))] if found else None

    def add(self, device: str, precision: str, width: int, rate: float) -> None:
        """Keep a rate in place of an older one."""
        stored = self._read()
        stored.setdefault(device, {}).setdefault(precision, {})[str(width)] = rate
        self.cache_dir.mkdir(parents=True, exist_ok=True)
        write_text(self.cache_dir / "rates.json", json.dumps(stored, indent=1) + "\n")

    def _read(self) -> Stored:
        """Nothing where the file is damaged: it can be measured again."""
        try:
            stored: Stored = json.loads((self.cache_dir / "rates.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return stored if isinstance(stored, dict) else {}


@final
@dataclass(frozen=True)
class Planned:
    """What a training was planned to take.

    Attributes:
        peak_bytes: most memory on a device; on a CPU with `base_bytes` of interpreter and libraries.
        base_bytes: see there.
        operations: of the whole training, on one of its devices.
        seconds: None where no rate of this device is known.
        remedy: from the bytes that there are to overrides that would fit into them; None if nothing would.
        remember: keeps the rate that the training found.
    """

    peak_bytes: int
    base_bytes: int
    operations: float
    seconds: float | None
    remedy: Callable[[int], str | None]
    remember: Callable[[float], None]


def device_name(device: torch.device) -> str:
    """Of a GPU as its driver has it; else the kind of device."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
