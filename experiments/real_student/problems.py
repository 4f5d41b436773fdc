"""Sums of two small numbers: something that a model of 135 million parameters gets right in a quarter of its tries.

write(folder, num_train=450, num_heldout=300)  # train.jsonl and heldout.jsonl, of different sums
"""

from __future__ import annotations

import json
import random
from itertools import product
from pathlib import Path

SMALLEST, LARGEST = 2, 29
PROMPT = "{problem}"


def write(folder: Path, num_train: int, num_heldout: int) -> tuple[Path, Path]:
    """Write both files; the held-out problems are the same for any number to train on.

    Raises:
        SystemExit: there are not as many sums.
    """
    from redi_lab.files import write_text

    sums = list(product(range(SMALLEST, LARGEST + 1), repeat=2))
    if num_train + num_heldout > len(sums):
        raise SystemExit(f"{num_train} problems and {num_heldout} held-out ones: there are {len(sums)} sums in all")
    random.Random(0).shuffle(sums)
    folder.mkdir(parents=True, exist_ok=True)
    parts = {"train": sums[num_heldout : num_heldout + num_train], "heldout": sums[:num_heldout]}
    for name, part in parts.items():
        rows = ({"id": f"{a}+{b}", "problem": f"What is {a} + {b}?", "answer": str(a + b)} for a, b in part)
        write_text(folder / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    return folder / "train.jsonl", folder / "heldout.jsonl"
