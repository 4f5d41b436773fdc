"""How long an evaluation waits for its slowest completions: blocks with a barrier against one queue, simulated.

python -m benchmarks.evaluation_queue

The paper's suite, 16 samples of each problem, on eight replicas of vLLM. A replica runs at most 256 completions at
once; with b of them a token of each takes 6 ms + 0.06 ms × b (an assumption). Lengths are log-normal with a median of
6,000 tokens, cut at 32,000.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Sequence
from typing import final

from redi_lab.generation.vllm_engine import IN_FLIGHT

PROBLEMS = {"math500": 500, "aime24": 30, "amc23": 40, "minerva": 272, "olympiadbench": 675}
SAMPLES, REPLICAS, SEATS, BLOCK = 16, 8, 256, 1024


def lengths(count: int, draw: random.Random) -> list[int]:
    """Tokens of some completions."""
    return [min(32_000, max(200, round(math.exp(draw.gauss(math.log(6000), 0.8))))) for _ in range(count)]


def seconds_a_token(running: int) -> float:
    """How long one more token of every completion takes a replica that generates this many at once."""
    return 0.006 + 0.00006 * running


@final
class Replica:
    """Completions being generated, and those waiting for room; `now` is its clock."""

    def __init__(self) -> None:
        self.now = 0.0
        self.waiting: deque[int] = deque()
        self._tokens = 0  # that each seat has made since the start
        self._ends: list[int] = []

    @property
    def num_items(self) -> int:
        """All that it has."""
        return len(self.waiting) + len(self._ends)

    def next_end(self) -> float:
        """When its next completion is finished; infinite without any."""
        while self.waiting and len(self._ends) < SEATS:
            heapq.heappush(self._ends, self._tokens + self.waiting.popleft())
        return self.now + (self._ends[0] - self._tokens) * seconds_a_token(len(self._ends)) if self._ends else math.inf

    def finish_one(self) -> None:
        """Go on to the next end."""
        self.now = self.next_end()
        self._tokens = heapq.heappop(self._ends)


def one_queue(work: Sequence[int], in_flight: int = IN_FLIGHT) -> float:
    """Seconds with one queue: the next completion goes to the least busy replica that has room for it."""
    queue, replicas = deque(work), [Replica() for _ in range(REPLICAS)]
    while True:
        while queue and (least := min(replicas, key=lambda replica: replica.num_items)).num_items < in_flight:
            least.waiting.append(queue.popleft())
        first = min(replicas, key=lambda replica: replica.next_end())
        if math.isinf(first.next_end()):
            return max(replica.now for replica in replicas)
        first.finish_one()


def in_blocks(work: Sequence[int], size: int) -> float:
    """Seconds where each block is shared out evenly and waits for its slowest completion."""
    return sum(
        one_queue(work[start : start + size], in_flight=-(-size // REPLICAS)) for start in range(0, len(work), size)
    )


def main() -> None:
    """Print a table."""
    draw = random.Random(0)
    suite = {name: lengths(count * SAMPLES, draw) for name, count in PROBLEMS.items()}
    every = [length for work in suite.values() for length in work]
    ideal = sum(every) * seconds_a_token(SEATS) / SEATS / REPLICAS
    ways = {
        f"blocks of {BLOCK:,}, one benchmark after the other": sum(in_blocks(work, BLOCK) for work in suite.values()),
        "a queue for each benchmark": sum(map(one_queue, suite.values())),
        "one queue for the suite": one_queue(every),
        "no replica ever idle": ideal,
    }
    print(f"{len(every):,} completions\n| | seconds |\n|---|---|")
    for name, seconds in ways.items():
        print(f"| {name} | {seconds:,.0f} |")


if __name__ == "__main__":
    main()
