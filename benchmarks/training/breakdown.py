"""Where the time of a training step goes: head, attention, the layers' matrix products, and the rest.

    python -m benchmarks.training.breakdown A/redi/bf16 B/redi/bf16 B/dpo/bf16

Steps of the same tokens are profiled until one was disturbed by nothing: the shortest counts. Prints the shares and
draws them into benchmarks/results/breakdown.png.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import matplotlib as mpl
import pytorch_lightning as pl
import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.training.against_trl import PROFILES, ROOT, WARM_UP, make_work
from benchmarks.training.redi_lab_side import train

mpl.use("Agg")
import matplotlib.pyplot as plt

PARTS = ("layers, products", "layers, the rest", "attention", "head, products", "head, the rest", "optimizer")
PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_")


@final
class Profiled(pl.Callback):
    """Profiles every step after the warm-up and keeps the shares of the shortest."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()

    def on_train_batch_start(self, trainer: pl.Trainer, module: pl.LightningModule, batch: Any, batch_idx: int) -> None:
        """Begin."""
        self._profile = profile(activities=[ProfilerActivity.CPU])
        self._profile.start()

    def on_train_batch_end(
        self, trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count, unless it warmed up or another step was shorter."""
        self._profile.stop()
        found: Counter[str] = Counter()
        for event in self._profile.events() or ():  # type: ignore[no-untyped-call]
            found[part_of(event)] += event.self_cpu_time_total / 1e6
        if batch_idx >= WARM_UP and (not self.seconds or found.total() < self.seconds.total()):
            self.seconds = found


def part_of(event: Any) -> str:
    """Which of PARTS an event of the profiler belongs to, by the functions that it happens in."""
    is_product = event.name in PRODUCTS
    around = event
    while around is not None:
        if "LogpSum" in around.name:
            return "head, products" if is_product else "head, the rest"
        if "BlockedAttention" in around.name or "scaled_dot_product" in around.name:
            return "attention"
        if "adam" in around.name.lower():
            return "optimizer"
        around = around.cpu_parent
    return "layers, products" if is_product else "layers, the rest"


def draw(found: dict[str, Counter[str]], file: Path) -> None:
    """One bar for each case."""
    figure, axes = plt.subplots(figsize=(8, 0.6 * len(found) + 1.2))
    begin = dict.fromkeys(found, 0.0)
    for part in PARTS:
        widths = {case: 100 * seconds[part] / seconds.total() for case, seconds in found.items()}
        axes.barh(list(found), list(widths.values()), left=list(begin.values()), label=part)
        begin = {case: begin[case] + widths[case] for case in found}
    axes.invert_yaxis()
    axes.set_xlabel("% of a step")
    axes.legend(ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    figure.savefig(file, dpi=120, bbox_inches="tight")
    plt.close(figure)


def main(arguments: Sequence[str] | None = None) -> None:
    """Profile and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="+", help="SHAPE/OBJECTIVE/PRECISION")
    parser.add_argument("--steps", type=int, default=8, help="profiled steps of each case")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for case in options.cases:
            work = make_work(case, PROFILES["cpu"], Path(folder), pairs_per_step=2, number=2)
            profiled = Profiled()
            train(replace(work, pairs=work.pairs * (WARM_UP + options.steps)), profiled)
            found[case] = profiled.seconds
            total = profiled.seconds.total()
            print(case, f"{total:.2f} s", {part: f"{profiled.seconds[part] / total:.0%}" for part in PARTS})
    options.out.mkdir(parents=True, exist_ok=True)
    draw(found, options.out / "breakdown.png")


if __name__ == "__main__":
    main()
