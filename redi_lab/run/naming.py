"""What a run is called on screens, in MLflow and in legends: what sets it apart from the next one.

run_label(config)  # redi α.8 lr 2e-4 s42
run_name(config)  # redi α.8 lr 2e-4 s42 · demo
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SYMBOLS = {"alpha": "α", "beta": "β", "gamma": "γ"}
_ONE_WORD = {"SimPO": "simpo", "SimPER": "simper", "AsymRE": "asymre"}
_WITHOUT_EFFECT = {"kl_weight": 0.0, "prefix_weight": 1.0, "tail_weight": 1.0}


def run_label(config: Mapping[str, Any]) -> str:
    """Objective, its strength, peak learning rate and seed, as far as the configuration has them; else its name."""
    if not config.get("loss"):
        return str(config.get("name"))
    rate, seed = (config.get("optimizer") or {}).get("lr"), config.get("seed")
    rest = [f"lr {_scientific(float(rate))}"] if rate is not None else []
    return " ".join([objective(config["loss"]), *rest, *([f"s{seed}"] if seed is not None else [])])


def run_name(config: Mapping[str, Any]) -> str:
    """The label and the name of the experiment: ``redi α.8 lr 2e-4 s42 · demo``."""
    return " · ".join(dict.fromkeys([run_label(config), str(config.get("name"))]))


def objective(loss: Mapping[str, Any]) -> str:
    """``redi α.8``, ``simpo β10 γ1``, ``sft``: the class is named after the objective."""
    word = objective_name(str(loss.get("_target_"))).replace("_", " ")
    numbers = {k: float(v) for k, v in loss.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    shown = {k: v for k, v in numbers.items() if v != _WITHOUT_EFFECT.get(k)}
    return " ".join([word, *(f"{_SYMBOLS.get(k, f'{k} ')}{_short(v)}" for k, v in shown.items())])


def objective_name(target: str) -> str:
    """``bounded_redi`` of the path of BoundedREDIModule."""
    name = target.rpartition(".")[2].removesuffix("Module")
    return _ONE_WORD.get(name) or re.sub("(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _short(value: float) -> str:
    if value and abs(value) < 0.01:
        return _scientific(value)
    return f"{value:.6g}".replace("0.", ".", 1) if abs(value) < 1 and value else f"{value:.6g}"


def _scientific(value: float) -> str:
    """``2e-4``: six digits tell rates apart that a sweep draws."""
    digits, exponent = f"{value:.5e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
