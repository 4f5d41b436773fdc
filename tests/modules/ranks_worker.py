"""Trains on two gloo ranks and saves what came out; started by test_ranks.py as `python -m tests.modules.ranks_worker`.

Lightning starts the second rank by running the same command again, as it does for a user.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from redi_lab.callbacks.update_norm import UpdateNorm
from tests.modules.tiny_runs import attach_reference, fit, make_backbone, make_data, make_module

BATCH_SIZES = {"sft": 7, "redi": 3, "unpaired_redi": 9, "dpo": 3, "simpo": 3}
"""36 demonstrations or 13 pairs to train on: the last batch of each epoch has one example, so one rank has none.

Unpaired, 36 and 13 in four batches that all hold both."""


def train(objective: str, **options: Any) -> dict[str, Any]:
    """An epoch in many micro-batches, validated at its end; parameters after each step and all that was logged."""
    data = make_data(objective, batch_size=BATCH_SIZES[objective], num_validation=4, budget=0)
    if objective == "dpo":
        with tempfile.TemporaryDirectory() as folder:
            attach_reference(data, make_backbone(seed=1), Path(folder))
    module = make_module(objective, make_backbone(), log_entropy=True)
    result = fit(module, data, max_steps=-1, max_epochs=1, callbacks=[UpdateNorm()], **options)
    return {
        "parameters": torch.stack(result.tap.parameters),
        "train": result.log.stage("train"),
        "val": result.log.stage("val"),
        "rank": result.trainer.global_rank,
        "world_size": result.trainer.world_size,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    outcomes = {objective: train(objective, devices=2, strategy="ddp") for objective in BATCH_SIZES}
    torch.save(outcomes, Path(sys.argv[1]) / f"rank-{outcomes['sft']['rank']}.pt")
