"""Writes a command's overrides as an experiment: one YAML file that `+experiment=NAME` finds.

    text = experiment_text("alpha_lr_best", ["+experiment=demo", "loss.alpha=0.5"], "Best of a sweep.")
    (folder / "experiment" / "alpha_lr_best.yaml").write_text(text)

`python -m redi_lab --config-dir FOLDER +experiment=alpha_lr_best` then runs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from redi_lab.config.compose import CONFIG_DIR

_LEFT_OUT = ("paths", "logger", "debug", "seed", "hydra", "name")


def experiment_text(name: str, overrides: Sequence[str], comment: str) -> str:
    """The experiment that differs from the default configuration as the overrides do.

    Groups are chosen in its defaults list, all else are values; paths, logger, debug and seed stay free.

    Args:
        name: Of the experiment.
        overrides: Of `python -m redi_lab`.
        comment: Its first line.
    """
    _, usual = _compose([])
    wanted, choices = _compose(overrides)
    groups = {group: choice for group, choice in choices.items() if usual.get(group, choice) != choice}
    start, _ = _compose([f"{group}={choice}" for group, choice in groups.items()])
    content: dict[str, Any] = {"name": name, **_difference(wanted, start)}
    if groups:
        content = {"defaults": [{f"override /{group}": choice} for group, choice in groups.items()], **content}
    body = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return f"# @package _global_\n# {comment}\n{body}"


def _compose(overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, str]]:
    """The configuration with its interpolations, and which option of each group it uses."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR.resolve()), version_base="1.3"):
        config = compose("train", list(overrides), return_hydra_config=True)
    choices = OmegaConf.to_container(config.hydra.runtime.choices)
    plain = OmegaConf.to_container(config)
    assert isinstance(plain, dict)
    assert isinstance(choices, dict)
    kept = {str(g): str(c) for g, c in choices.items() if g != "experiment" and str(g).split("/")[0] not in _LEFT_OUT}
    return {str(key): value for key, value in plain.items() if key not in _LEFT_OUT}, kept


def _difference(wanted: Mapping[str, Any], start: Mapping[str, Any]) -> dict[str, Any]:
    """What to set so that `start` becomes `wanted`; what was deleted is set to null."""
    changed: dict[str, Any] = {}
    for key in dict.fromkeys([*start, *wanted]):
        new, old = wanted.get(key), start.get(key)
        if isinstance(new, Mapping) and isinstance(old, Mapping):
            inner = _difference(new, old)
            changed |= {key: inner} if inner else {}
        elif new != old:
            changed[key] = new
    return changed
