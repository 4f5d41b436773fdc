from __future__ import annotations

from typing import Any

import pytest

from redi_lab.generation.engines import SamplingParams


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": -1.0}, r"sampling\.temperature must be not negative, got -1"),
        ({"temperature": float("nan")}, r"sampling\.temperature"),
        ({"top_p": 0.0}, r"sampling\.top_p must be in \(0, 1\], got 0"),
        ({"max_new_tokens": 0}, r"sampling\.max_new_tokens must be at least 1"),
        ({"num_samples": 0}, r"sampling\.num_samples must be at least 1"),
        ({"seed": -1}, r"sampling\.seed must be not negative"),
        ({"first_sample": -1}, r"sampling\.first_sample must be not negative"),
    ],
)
def test_bad_sampling_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SamplingParams(
            **({"temperature": 0.8, "top_p": 0.9, "max_new_tokens": 40, "num_samples": 3, "seed": 7} | changes)
        )
