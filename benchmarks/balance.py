"""How evenly a global batch is shared among ranks: mean work over that of the slowest rank, simulated.

python -m benchmarks.balance

Lengths are those of the paper's traces: log-normal with a median of 4,000 tokens, at most 19,800.
"""

from __future__ import annotations

import math
import random
import statistics
from collections.abc import Callable, Sequence

from redi_lab.data.packing import share_out, step_cost

PAIRS, DRAWS, MEDIAN, SPREAD, SHORTEST, LONGEST = 32, 300, 4000, 0.7, 400, 19_800
Split = Callable[[Sequence[tuple[float, float]], int], list[float]]


def by_turns(pairs: Sequence[tuple[float, float]], ranks: int) -> list[float]:
    """Work of each rank where every n-th pair is its own."""
    return [sum(map(sum, pairs[rank::ranks])) for rank in range(ranks)]


def by_pairs(pairs: Sequence[tuple[float, float]], ranks: int) -> list[float]:
    """Where whole pairs are shared out, as for objectives that couple the sides of a pair."""
    costs = [sum(pair) for pair in pairs]
    return [sum(costs[index] for index in share) for share in share_out(costs, ranks)]


def by_sequences(pairs: Sequence[tuple[float, float]], ranks: int) -> list[float]:
    """Where sequences are, as for all others."""
    costs = [cost for pair in pairs for cost in pair]
    return [sum(costs[index] for index in share) for share in share_out(costs, ranks)]


SPLITS: dict[str, Split] = {"every n-th pair": by_turns, "pairs by cost": by_pairs, "sequences by cost": by_sequences}


def efficiencies(split: Split, ranks: int, draws: int = DRAWS) -> list[float]:
    """Of each of some batches, the same for every split."""
    draw = random.Random(0)
    found = []
    for _ in range(draws):
        work = split([(_cost(draw), _cost(draw)) for _ in range(PAIRS)], ranks)
        found.append(statistics.mean(work) / max(work))
    return found


def _cost(draw: random.Random) -> float:
    while True:
        length = round(draw.lognormvariate(math.log(MEDIAN), SPREAD))
        if SHORTEST <= length <= LONGEST:
            return step_cost(length)


def main() -> None:
    """Print a table: mean over batches, and the worst one."""
    print(f"| ranks | {' | '.join(SPLITS)} |\n|---|{'---|' * len(SPLITS)}")
    for ranks in (2, 4, 8, 16):
        found = [efficiencies(split, ranks) for split in SPLITS.values()]
        print(f"| {ranks} | {' | '.join(f'{statistics.mean(one):.3f} ({min(one):.2f})' for one in found)} |")


if __name__ == "__main__":
    main()
