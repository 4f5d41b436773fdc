"""The machine that trains: whether it has the devices that are asked for, and what `trainer.precision=auto` is on it.

The precision is chosen by a rule and not by a stopwatch. It replaces `auto` before a stage is fingerprinted, so records
and fingerprints say what was computed.
"""

from __future__ import annotations

from pathlib import Path

import torch
from omegaconf import DictConfig

from redi_lab.errors import UserError
from redi_lab.run.launched import current_launch

_BF16_UNITS = frozenset(["amx_bf16", "avx512_bf16"])  # x86; elsewhere torch's bfloat16 products are no faster


def check_devices(config: DictConfig) -> None:
    """Check that there are as many; on a CPU a device is a process, of which there may be any number.

    Raises:
        UserError: there are fewer, or other numbers were started by torchrun or srun.
    """
    wanted, accelerator = config.trainer.devices, config.trainer.accelerator
    launch, num_nodes = current_launch(), config.trainer.num_nodes
    if launch is not None and launch.size != wanted * num_nodes:
        raise UserError(
            f"trainer.devices={wanted} trainer.num_nodes={num_nodes}: {launch.size} processes were started; give the"
            " number of machines, and how many of them run on each"
        )
    if launch is None and num_nodes > 1:
        raise UserError(
            f"trainer.num_nodes={num_nodes}: start this command with torchrun or srun on each of them (docs/cluster.md)"
        )
    if wanted == 1 or accelerator == "cpu":
        return
    if accelerator == "mps":
        raise UserError(f"trainer.devices={wanted}: trainer.accelerator=mps has 1 device; set trainer.devices=1")
    there = torch.cuda.device_count()
    if there < wanted and (there or accelerator != "auto"):
        raise UserError(
            f"trainer.devices={wanted}: this machine has {there} CUDA devices (CUDA_VISIBLE_DEVICES may hide some);"
            f" set trainer.devices={max(there, 1)}, or trainer.accelerator=cpu"
        )


def is_on_gpus(config: DictConfig) -> bool:
    """Whether training runs on CUDA devices."""
    return config.trainer.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()


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
