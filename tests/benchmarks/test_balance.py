"""The simulation of how a batch is shared among ranks keeps to what the documentation says of it."""

from __future__ import annotations

import statistics

from benchmarks.balance import by_pairs, by_sequences, by_turns, efficiencies


def test_eight_ranks_are_busy() -> None:
    turns, pairs, sequences = (
        statistics.mean(efficiencies(split, 8, draws=100)) for split in (by_turns, by_pairs, by_sequences)
    )
    assert turns < 0.75
    assert pairs > 0.94
    assert sequences >= 0.97
