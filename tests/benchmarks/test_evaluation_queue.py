"""The simulation of an evaluation's queue, by hand and in small."""

from __future__ import annotations

import random

import pytest

from benchmarks import evaluation_queue
from benchmarks.evaluation_queue import in_blocks, lengths, one_queue, seconds_a_token


def test_one_replica_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two seats: 10 and 30 tokens run together until the 10 are done, then 20 more beside the third's 20."""
    monkeypatch.setattr(evaluation_queue, "REPLICAS", 1)
    monkeypatch.setattr(evaluation_queue, "SEATS", 2)
    assert one_queue([10, 30, 20]) == pytest.approx(30 * seconds_a_token(2))
    assert in_blocks([10, 30, 20], 2) == pytest.approx(
        10 * seconds_a_token(2) + 20 * seconds_a_token(1) + 20 * seconds_a_token(1)
    )


def test_a_queue_waits_for_nobody() -> None:
    work = lengths(4000, random.Random(1))
    ideal = sum(work) * seconds_a_token(evaluation_queue.SEATS) / evaluation_queue.SEATS / evaluation_queue.REPLICAS
    assert ideal < one_queue(work) < in_blocks(work, 1024) / 1.5
    assert one_queue(work, in_flight=256) < 1.01 * one_queue(work)
