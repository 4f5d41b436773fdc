"""Trains on two gloo ranks and saves what came out; started by test_ranks.py.

    python -m tests.modules.ranks_worker FOLDER OBJECTIVE/LAYOUT …

Lightning starts the second rank by running the same command again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from redi_lab.callbacks.update_norm import UpdateNorm
from tests.modules.tiny_runs import LORA, attach_reference, fit, make_backbone, make_data, make_module

BATCH_SIZES = {"sft": 7, "redi": 3, "unpaired_redi": 9, "token_topr": 3, "npo": 3, "dpo": 3, "simpo": 3, "rpo": 3,
               "kto": 9}  # fmt: skip
"""By class: A three times, B, C1, C2 twice, C3, D.

36 demonstrations or 13 pairs to train on: the last batch of each epoch has one example, so that a rank may have none.
Unpaired, 36 and 13 in four batches that all hold both."""
CASES = [f"{objective}/{layout}" for objective in BATCH_SIZES for layout in ("packed", "padded")] + ["dpo/lora"]
IN_4_BITS = "redi/qlora"
"""Needs bitsandbytes."""


def train(case: str, **options: Any) -> dict[str, Any]:
    """An epoch in many micro-batches, validated at its end: the first gradient, all parameters, and what was logged."""
    objective, layout = case.split("/")
    is_padded = layout == "padded"
    adapters = {"lora": LORA[None], "qlora": LORA["nf4"]}.get(layout)
    size = BATCH_SIZES[objective]
    data = make_data(objective, batch_size=size, num_validation=4, budget=0, is_padded=is_padded)
    module = make_module(objective, make_backbone(is_padded=is_padded, adapters=adapters), log_entropy=True)
    if module.needs_mismatched:
        for split in data.datasets:
            split.mismatch()
    if module.needs_reference or module.needs_token_reference:
        with tempfile.TemporaryDirectory() as folder:
            reference = make_backbone(seed=1, is_padded=is_padded)
            attach_reference(data, reference, Path(folder), keeps_tokens=module.needs_token_reference)
    result = fit(module, data, max_steps=-1, max_epochs=1, callbacks=[UpdateNorm()], **options)
    return {
        "gradient": result.tap.gradients[0],
        "parameters": torch.stack(result.tap.parameters),
        "train": result.log.stage("train"),
        "val": result.log.stage("val"),
        "rank": result.trainer.global_rank,
        "world_size": result.trainer.world_size,
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder, *cases = sys.argv[1:]
    outcomes = {case: train(case, devices=2, strategy="ddp") for case in cases}
    torch.save(outcomes, Path(folder) / f"rank-{outcomes[cases[0]]['rank']}.pt")
