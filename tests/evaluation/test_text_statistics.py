from __future__ import annotations

import pytest

from redi_lab.evaluation.text_statistics import text_statistics


def test_by_hand() -> None:
    """3 "Wait" in 2 completions and 40 + 10 tokens: 1.5 a completion, 60 in a thousand tokens."""
    found = text_statistics(["Wait. Wait, no.\nWait", "wait for the Waiter, he Waits; Waitress"], [40, 10])
    assert found == pytest.approx(
        {
            "mean_tokens": 25.0,
            "tokens_p10": 13.0,
            "tokens_p50": 25.0,
            "tokens_p90": 37.0,
            "waits_per_completion": 1.5,
            "waits_per_1k_tokens": 60.0,
        }
    )


def test_completions_without_a_token_have_no_rate() -> None:
    assert text_statistics([""], [0])["waits_per_1k_tokens"] == 0.0
