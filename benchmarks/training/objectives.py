"""What each objective costs beside SFT on the same tokens: median ratio of alternating steps, by cost class.

    python -m benchmarks.training.objectives                         # model B, half an hour on one core
    python -m benchmarks.training.objectives --only redi npo dpo     # a few minutes
    python -m benchmarks.training.objectives --shape tiny --rounds 1

A step here is all passes over a global batch, forward and backward; the optimizer is the same for all and left out. A
reference's scoring, which is done once before training, is left out as well. Writes benchmarks/results/objectives.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from rich.progress import track

from benchmarks.training.workload import SHAPES, draw_pairs, make_model
from redi_lab.backbone.causal_lm import CausalLM
from redi_lab.backbone.loading import load_backbone
from redi_lab.backbone.reference import score_reference
from redi_lab.config.compose import load_config
from redi_lab.data.batches import BatchDataset
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.run.build import make_module, objective_class

RESULTS = Path("benchmarks/results/objectives.json")
CLASSES: dict[str, dict[str, list[str]]] = {
    "A": {
        "redi": [],
        "unpaired_redi": [],
        "w_reinforce": [],
        "asymre": [],
        "oreal": [],
    },
    "B": {"unlikelihood": [], "luffy": [], "token_topr": [], "redi, kl_weight": ["loss.kl_weight=0.1"]},
    "C1": {"simper": [], "bounded_redi": [], "npo": [], "nca": [], "a_star_po": []},
    "C2": {"dpo": [], "simpo": [], "dpo_shift": [], "dpo, kl_weight": ["loss.kl_weight=0.1"]},
    "C3": {"rpo": [], "dpop": [], "cal_dpo": []},
    "D": {"kto": []},
}


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="B")
    parser.add_argument("--only", nargs="+", default=[name for of in CLASSES.values() for name in of])
    parser.add_argument("--pairs", type=int, default=2, help="of a step")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shape = SHAPES[arguments.shape]
    names = [
        ("SFT", "sft", []),
        *((k, n, o) for k, of in CLASSES.items() for n, o in of.items() if n in arguments.only),
    ]
    with tempfile.TemporaryDirectory() as folder:
        model = make_model(shape, Path(folder), longest=shape.longest)
        backbone = load_backbone(path=str(model))
        pairs = draw_pairs(shape, arguments.pairs)
        steps = {
            name: make_step(name.split(",")[0], overrides, backbone, pairs, arguments.micro_batch_tokens, Path(folder))
            for _, name, overrides in names
        }
        seconds: dict[str, list[float]] = {name: [] for name in steps}
        rounds = list(itertools.product(range(arguments.rounds + 1), steps))
        for number, name in track(rounds, "Steps"):
            began = time.process_time()  # one thread: other work shows only through caches and memory
            steps[name]()
            if number:  # the first round warms up
                seconds[name].append(time.process_time() - began)
    print(f"model {shape.name}, fp32, one core, {arguments.pairs} pairs a step, median of {arguments.rounds} rounds")
    print("| class | objective | ÷ SFT | lowest–highest |\n|---|---|---:|---:|")
    found = {}
    for kind, name, _ in names[1:]:
        ratios = sorted(a / b for a, b in zip(seconds[name], seconds["sft"], strict=True))
        found[name] = {"class": kind, "ratios": ratios, "seconds": seconds[name]}
        print(f"| {kind} | {name} | {statistics.median(ratios):.2f} | {ratios[0]:.2f}–{ratios[-1]:.2f} |")
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"shape": shape.name, "sft": seconds["sft"]} | found, indent=1), encoding="utf-8")


def make_step(
    name: str, overrides: list[str], backbone: CausalLM, pairs: list[Any], budget: int, folder: Path
) -> Callable[[], None]:
    """A function that takes the gradients of one global batch of these pairs."""
    config = load_config("train", [f"loss={name}", *overrides])
    kind = objective_class(config)
    module: Any = make_module(config, backbone)
    sequences = [
        TokenizedSequence(
            f"{number}", (*pair["prompt"], *pair[side]), len(pair["prompt"]), side == "chosen", pass_rate=0.5
        )
        for number, pair in enumerate(pairs)
        for side in ("chosen", "rejected")
    ]
    width = 2 if kind.task == "pairs" else 1
    examples = [tuple(sequences[at : at + width]) for at in range(0, len(sequences), width)]
    data = BatchDataset(examples, budget, split_examples=kind.is_linear or kind.is_separable)
    if module.needs_mismatched:
        data.mismatch()
    for split in filter(None, (data, data.mismatched)):
        if module.needs_reference or module.needs_token_reference:
            split.reference = score_reference(
                backbone, split, keeps_tokens=module.needs_token_reference, cache_dir=folder / "reference"
            )
    module.manual_backward = lambda loss: loss.backward()
    module._trainer = SimpleNamespace(world_size=1, strategy=SimpleNamespace(model=None))
    indices = list(range(len(examples)))

    def step() -> None:
        batch = data[indices]
        module.prepare(batch)
        module._accumulate_gradients(batch)
        module.zero_grad(set_to_none=True)

    return step


if __name__ == "__main__":
    main()
