"""Ten optimizer steps of SFT and of REDI, whose losses are pinned in ten_steps.json.

A change that is not to alter the numbers leaves the file as it is. One that is, writes it anew and shows the
difference:

    python -m tests.golden.ten_steps        # from the root of the repository
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import AdamW
from transformers import get_scheduler

from tests.modules.tiny_runs import fit, flat, make_backbone, make_data, make_module

PINNED = Path(__file__).with_suffix(".json")
OBJECTIVES = ("sft", "redi")
CURVES = {"loss": 1e-4, "mean_logps/chosen": 1e-4, "grad_norm": 1e-3}
"""What is pinned, and how far (relatively) another CPU may be from it."""


class TenSteps(NamedTuple):
    """What a run is compared by."""

    curves: dict[str, list[float]]
    weights: Tensor


def run(objective: str) -> TenSteps:
    """Ten steps of AdamW with warm-up and decay, on one thread, over packed micro-batches of several sizes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums depend on how threads share them
    try:
        module = make_module(
            objective, make_backbone(), optimizer=partial(AdamW, lr=2e-3, weight_decay=1e-4), scheduler=_linear
        )
        result = fit(module, make_data(objective, batch_size=5, budget=0), max_steps=10)
    finally:
        torch.set_num_threads(threads)
    curves = {name: [call[f"train/{name}"] for call in result.train] for name in CURVES}
    return TenSteps(curves, flat(list(module.parameters())))


def _linear(optimizer: torch.optim.Optimizer, num_steps: int) -> Any:
    return get_scheduler("linear", optimizer, num_warmup_steps=1, num_training_steps=num_steps)


def write() -> None:
    """Pin what this machine computes now."""
    curves = {objective: run(objective).curves for objective in OBJECTIVES}
    rounded = {o: {name: [float(f"{v:.8g}") for v in c] for name, c in named.items()} for o, named in curves.items()}
    PINNED.write_text(json.dumps(rounded, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    write()
