"""Whether there are the devices that `trainer.devices` and `trainer.num_nodes` ask for."""

from __future__ import annotations

import torch
from omegaconf import DictConfig

from redi_lab.errors import UserError
from redi_lab.run.launched import current_launch


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
