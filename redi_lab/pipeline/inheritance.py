"""What an earlier stage takes over from the command line."""

from __future__ import annotations

from collections.abc import Sequence

from omegaconf import DictConfig

_INHERITED = ("model", "data", "paths", "logger", "seed", "debug")
_OF_ONE_STAGE = ("data.batch_size", "data.micro_batch_tokens")


def earlier_overrides(config: DictConfig, overrides: Sequence[str]) -> list[str]:
    """The overrides that compose the experiment which `config.init_from` names."""
    return [f"+experiment={config.init_from}", *inherited(overrides), *config.init_overrides]


def inherited(overrides: Sequence[str]) -> list[str]:
    """The overrides that an earlier stage takes over: those that say what is trained on what, and where it is kept."""
    kept = []
    for override in overrides:
        key = override.lstrip("+~").split("=", 1)[0]
        if key.split(".")[0] in _INHERITED and key not in _OF_ONE_STAGE and key != "paths.output_dir":
            kept.append(override)
    return kept
