"""Runs with unequal numbers of samples: how often is one model called different from itself, and what is found?

    python experiments/sequential_evaluation/unequal.py        # three minutes on one core; writes unequal.json

Beside `compare` stands the rule that it replaced: all swaps of the runs on whole problems, and the t-interval. That a
swap is a symmetry there is only true of equal numbers of samples.
"""

from __future__ import annotations

import json
import math
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from redi_lab.evaluation.comparison import Finding, compare
from redi_lab.evaluation.metrics import Verdicts, paired_difference

KINDS = {
    "all at 0.05": (0.05, 1e6),
    "hard": (0.05, 2.0),
    "mixed": (0.5, 0.5),
    "middling": (0.5, 2.0),
    "easy": (0.95, 2.0),
    "all at 0.95": (0.95, 1e6),
}
OLD_SAMPLES = 16
PAIRS = {30: 4000, 272: 1000}


def main() -> None:
    """Simulate and write the rows."""
    generator = np.random.default_rng(0)
    rows = []
    for (num_problems, pairs), samples, kind in product(PAIRS.items(), (1, 2, 4), KINDS):
        found = np.zeros(2)
        for new, old in _pairs(generator, kind, (num_problems, samples), pairs, gain=0.0):
            found += compare(new, old).finding() is not Finding.UNDECIDED, _swaps_decide(new, old)
        rows.append({"problems": num_problems, "samples": samples, "kind": kind, "same": list(found / pairs)})
        print(rows[-1], flush=True)
    for num_problems, gain, samples in ((30, 0.2, 1), (30, 0.2, 4), (272, 0.07, 1), (272, 0.07, 4)):
        found = np.zeros(3)
        for new, old in _pairs(generator, "middling", (num_problems, samples), 1000, gain):
            against = (old, old[:, :samples])
            found[:2] += [compare(new, other).finding() is Finding.BETTER for other in against]
            found[2] += _swaps_decide(new, old)
        case = {"problems": num_problems, "samples": samples, "gain": gain}
        rows.append(
            case | {"against_16": found[0] / 1000, "against_as_many": found[1] / 1000, "swaps": found[2] / 1000}
        )
        print(rows[-1], flush=True)
    Path(__file__).with_suffix(".json").write_text(json.dumps(rows) + "\n")


def _pairs(
    generator: np.random.Generator, kind: str, size: tuple[int, int], pairs: int, gain: float
) -> list[tuple[Verdicts, Verdicts]]:
    mean, spread = KINDS[kind]
    base = generator.beta(mean * spread, (1 - mean) * spread, size=(pairs, size[0], 1)) * (1 - gain)
    new = generator.random((pairs, *size)) < base + gain
    return list(zip(new, generator.random((pairs, size[0], OLD_SAMPLES)) < base, strict=True))


def _swaps_decide(new: Verdicts, old: Verdicts) -> bool:
    """Whether all swaps and the t-interval agree that there is a difference."""
    scale = math.lcm(new.shape[1], old.shape[1])
    differences = new.sum(axis=1) * (scale // new.shape[1]) - old.sum(axis=1) * (scale // old.shape[1])
    sizes: NDArray[np.int64] = np.abs(differences[differences != 0])
    total, probabilities = int(sizes.sum()), np.zeros(int(sizes.sum()) + 1)
    probabilities[0] = 1.0
    for size in sizes:
        probabilities[size:] += probabilities[:-size]
        probabilities /= 2
    p_value = probabilities[np.abs(2 * np.arange(total + 1) - total) >= abs(differences.sum())].sum()
    interval = paired_difference(new, old)
    return bool(p_value <= 0.05 and not interval.ci_low <= 0 <= interval.ci_high)


if __name__ == "__main__":
    main()
