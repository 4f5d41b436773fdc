"""Trains on gloo ranks and saves what came out; started by test_ranks.py, and for the table in docs/distributed.md.

    python -m tests.modules.ranks_worker FOLDER RANKS STRATEGY:OBJECTIVE/LAYOUT[/OPTION] …
    python -m tests.modules.ranks_worker table

The ranks are forked from a process that has imported everything and computed nothing.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from safetensors.torch import load_file
from torch.multiprocessing.spawn import start_processes
from transformers import AutoModelForCausalLM

from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.loading import set_checkpointing
from redi_lab.callbacks.accuracy import InTrainingAccuracy
from redi_lab.callbacks.checkpoints import ExportCheckpoints
from redi_lab.callbacks.gradient_conflict import GradientConflict
from redi_lab.callbacks.probes import Probes
from redi_lab.callbacks.update_norm import UpdateNorm
from tests.conftest import REPOSITORY
from tests.modules.tiny_runs import (
    LORA,
    attach_reference,
    fit,
    flat,
    make_backbone,
    make_data,
    make_module,
    make_strategy,
    relative_error,
)

BATCH_SIZES = {"sft": 7, "redi": 3, "unpaired_redi": 9, "token_topr": 3, "npo": 3, "dpo": 3, "simpo": 3, "rpo": 3,
               "kto": 9, "token_reward": 9}  # fmt: skip
"""By class: A three times, B, C1, C2 twice, C3, D; and what trains no policy.

36 demonstrations or 13 pairs to train on: the last batch of each epoch has one example, so that a rank may have none.
Unpaired, 36 and 13 in four batches that all hold both."""
CASES = [f"{objective}/{layout}" for objective in BATCH_SIZES for layout in ("packed", "padded")] + ["dpo/lora"]
OPTIONS = ["redi/packed/full", "dpo/padded/selective", "npo/packed/bf16", "redi/packed/untied", "simpo/packed/frozen",
           "token_reward/packed/untied"]  # fmt: skip
"""With layers that are recomputed, in bfloat16, with a head of its own, or with frozen embeddings and head."""
IN_4_BITS = "redi/qlora"
"""Needs bitsandbytes."""
WORLDS = [("fsdp2", 2), ("ddp", 2), ("fsdp2", 4), ("ddp", 4), ("fsdp2", 1), ("fsdp2-offload", 2)]
"""Strategies, and ranks."""


def train(case: str, folder: Path | None = None, **trainer: Any) -> dict[str, Any]:
    """An epoch in many micro-batches, validated at its end: the first gradient, all parameters, and what was logged.

    Where there is a folder, the policy is exported to it; what is in there then is part of the outcome, too.
    """
    objective, layout, *options = case.split("/")
    is_padded = layout == "padded"
    adapters = {"lora": LORA[None], "qlora": LORA["nf4"]}.get(layout)
    size = BATCH_SIZES[objective]
    data = make_data(objective, batch_size=size, num_validation=4, budget=0, is_padded=is_padded)
    backbone = make_backbone(is_padded=is_padded, is_tied="untied" not in options, adapters=adapters)
    set_checkpointing(backbone.model, next((o for o in options if o in ("full", "selective")), "none"))
    if "frozen" in options:
        backbone.model.get_input_embeddings().weight.requires_grad_(False)
    if "bf16" in options:
        trainer["precision"] = "bf16-mixed"
    module = make_module(objective, backbone)
    if module.needs_mismatched:
        for split in data.datasets:
            split.mismatch()
    if module.needs_reference or module.needs_token_reference:
        with tempfile.TemporaryDirectory() as cache_dir:
            reference = make_backbone(seed=1, is_padded=is_padded)
            attach_reference(data, reference, Path(cache_dir), keeps_tokens=module.needs_token_reference)
    probes = [sequence for example in data.val_examples for sequence in example]
    callbacks: list[pl.Callback] = [
        UpdateNorm(),
        Probes(probes, 10_000, 2),
        InTrainingAccuracy(own_logits, 2),
    ]
    if objective != "token_reward":  # which has other sums
        callbacks.append(GradientConflict(2))
    if folder is not None:
        callbacks.append(ExportCheckpoints(folder, 0, None, monitor=None, mode="min"))
    result = fit(module, data, max_steps=-1, max_epochs=1, callbacks=callbacks, **trainer)
    expected = flat([p for p in backbone.model.parameters() if adapters is None or p.requires_grad])
    if folder is not None and result.trainer.is_global_zero:
        assert torch.equal(flat(exported(folder / "last", module, has_adapters=adapters is not None)), expected)
    return {
        "gradient": result.tap.gradients[0],
        "parameters": torch.stack(result.tap.parameters),
        "train": [call for call in result.train if "train/loss" in call],
        "conflict": [call for call in result.train if "train/grad_norm_chosen" in call],
        "probe": result.log.stage("probe"),
        "val": result.log.stage("val"),
        "rank": result.trainer.global_rank,
        "world_size": result.trainer.world_size,
    }


def exported(folder: Path, module: pl.LightningModule, *, has_adapters: bool) -> list[torch.Tensor]:
    """The weights in a checkpoint, or its adapters alone, in the order of the module."""
    if not has_adapters:
        return list(AutoModelForCausalLM.from_pretrained(folder).parameters())
    saved = load_file(folder / "adapter" / "adapter_model.safetensors")
    names = [name for name, parameter in module.named_parameters() if parameter.requires_grad]
    assert len(saved) == len(names)
    return [saved[name.removeprefix("backbone.model.").replace(".default.", ".")] for name in names]


def own_logits(policy: CausalLM) -> dict[str, float]:
    """A number of transformers' own forward pass."""
    with policy.for_generation() as model:
        logits = model(input_ids=torch.arange(5)[None], use_cache=False).logits
    return {"log_sum_exp": float(logits.float().logsumexp(-1).mean())}


alone = cache(train)
"""On one device."""


def on_ranks(cases: Mapping[str, Sequence[str]], ranks: int, folder: Path) -> list[dict[str, Any]]:
    """Outcomes of the cases of each strategy, as each rank saw them."""
    asked = [f"{strategy}:{case}" for strategy, of_strategy in cases.items() for case in of_strategy]
    command = [sys.executable, "-m", "tests.modules.ranks_worker", str(folder), str(ranks), *asked]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "SLURM"))}
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=540
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in range(ranks)]


def be_a_rank(rank: int, port: int, place: str, ranks: int, cases: Sequence[str]) -> None:
    """Train all cases as one of several processes, which find each other as those of torchrun do."""
    meeting = {"TORCHELASTIC_RUN_ID": "tests", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    number = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    os.environ |= meeting | number
    outcomes: dict[str, dict[str, Any]] = {}
    for strategy, case in (asked.split(":") for asked in cases):
        found = train(case, Path(place) / strategy / case, devices=ranks, strategy=make_strategy(strategy))
        outcomes.setdefault(strategy, {})[case] = found
    torch.save(outcomes, Path(place) / f"rank-{rank}.pt")


def errors(case: str, outcome: dict[str, Any]) -> tuple[float, float, float]:
    """Relative to one device: of the first loss, of the first gradient, and the largest of the weights after a step."""
    one = alone(case)
    loss, expected = (run["train"][0]["train/loss"] for run in (outcome, one))
    steps = zip(outcome["parameters"], one["parameters"], strict=True)
    return (
        abs(loss - expected) / abs(expected),
        relative_error(outcome["gradient"], one["gradient"]),
        max(relative_error(*both) for both in steps),
    )


def print_table() -> None:
    """The largest errors over all cases of each objective, for each number of ranks and strategy."""
    exact = [case for case in (*CASES, *OPTIONS) if not case.endswith("bf16")]
    objectives = list(BATCH_SIZES)
    print("| strategy, ranks |", " | ".join(objectives), "|")
    print("|---|" + "---|" * len(objectives))
    for strategy, ranks in WORLDS:
        with tempfile.TemporaryDirectory() as folder:
            first = on_ranks({strategy: exact}, ranks, Path(folder))[0][strategy]
        cells = []
        for objective in objectives:
            found = [errors(case, first[case]) for case in exact if case.split("/")[0] == objective]
            cells.append(" ".join(f"{max(column):.0e}" for column in zip(*found, strict=True)))
        print(f"| {strategy}, {ranks} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] == ["table"]:
        print_table()
    else:
        place, ranks, *cases = sys.argv[1:]
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        arguments = (port, place, int(ranks), cases)
        start_processes(be_a_rank, arguments, nprocs=int(ranks), start_method="fork")  # type: ignore[no-untyped-call]
