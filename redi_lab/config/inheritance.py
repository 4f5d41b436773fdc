"""What an earlier stage takes over from the command line."""

from __future__ import annotations

import re
from collections.abc import Sequence

from omegaconf import DictConfig

from redi_lab.config.compose import load_config
from redi_lab.errors import UserError

_INHERITED = ("model", "data", "paths", "logger", "seed", "debug")
_DEVICES = ("trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.fsdp_offload")
_OF_ONE_STAGE = ("data.batch_size", "data.micro_batch_tokens", "data.negatives")


def earlier_overrides(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """The overrides that compose the experiment which `config.init_from` names."""
    return [f"+experiment={config.init_from}", *inherited(overrides), *config.init_overrides]


def load_earlier(config: DictConfig, overrides: Sequence[str]) -> DictConfig:
    """The configuration of the experiment that `config.init_from` names.

    Raises:
        UserError: it is not allowed; the message names the stage, for init_overrides may be to blame.
    """
    try:
        return load_config("train", earlier_overrides(config, overrides))
    except UserError as error:
        raise UserError(f"in the stage init_from={config.init_from}: {error}") from error


def inherited(overrides: Sequence[str]) -> list[str]:
    """The overrides that an earlier stage takes over: those that say what is trained on what, and where it is kept."""
    kept = []
    for override in overrides:
        key = override.lstrip("+~").split("=", 1)[0]
        is_inherited = re.split(r"[./]", key)[0] in _INHERITED or key in _DEVICES
        if is_inherited and key not in _OF_ONE_STAGE and key != "paths.output_dir":
            kept.append(override)
    return kept
