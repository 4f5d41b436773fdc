"""`trainer.precision=auto`: the precision that this machine trains fastest in, by a rule and not by a stopwatch.

The result replaces `auto` before a stage is fingerprinted, so records and fingerprints say what was computed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig

_BF16_UNITS = frozenset(["amx_bf16", "avx512_bf16"])  # x86; elsewhere torch's bfloat16 products are no faster


def settle_precision(config: DictConfig) -> None:
    """Replace `trainer.precision=auto` in place by what the machine and `trainer.accelerator` call for."""
    if config.trainer.precision == "auto":
        config.trainer.precision = fastest_precision(str(config.trainer.get("accelerator", "auto")))


def fastest_precision(accelerator: str = "auto") -> str:
    """`bf16-mixed` where the hardware multiplies bfloat16 matrices faster than float32 ones, else `32-true`.

    That is a CUDA device of capability 8.0 (Ampere) or newer, or a processor with AMX or AVX512-BF16.

    Args:
        accelerator: as `trainer.accelerator`; only `cpu` keeps a GPU that is there from counting.
    """
    if accelerator != "cpu" and torch.cuda.is_available():
        is_fast = torch.cuda.get_device_capability()[0] >= 8
    else:
        is_fast = accelerator in ("auto", "cpu") and not _BF16_UNITS.isdisjoint(cpu_features())
    return "bf16-mixed" if is_fast else "32-true"


def cpu_features() -> frozenset[str]:
    """Instruction sets of the processor as Linux names them; empty elsewhere."""
    info = Path("/proc/cpuinfo")
    return frozenset(info.read_text(encoding="utf-8").split()) if info.exists() else frozenset()
