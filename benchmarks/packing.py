"""How long a global batch takes to pack: 32 pairs of 2 × 5,000 tokens, as an epoch of the paper has 1,662 of.

python benchmarks/packing.py
"""

from __future__ import annotations

import statistics
import time
from array import array

from redi_lab.data.batches import BatchDataset
from redi_lab.data.tokenization import TokenizedSequence

PAIRS, TOKENS, ROW, REPEATS = 32, 5000, 19_800, 20


def main() -> None:
    """Print milliseconds of processor time: median, least and most."""
    ids = array("i", range(TOKENS))
    pair = tuple(TokenizedSequence(side, ids, 200, is_chosen=side == "chosen") for side in ("chosen", "rejected"))
    data = BatchDataset([pair] * PAIRS, ROW, split_examples=True)
    found = []
    for _ in range(REPEATS):
        began = time.process_time()
        data[list(range(PAIRS))]
        found.append(1e3 * (time.process_time() - began))
    print(
        f"{PAIRS} pairs of 2 × {TOKENS} tokens: {statistics.median(found):.1f} ms ({min(found):.1f}–{max(found):.1f})"
    )


if __name__ == "__main__":
    main()
