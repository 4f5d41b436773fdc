"""The weight of the negative term over a training: constant, falling to 0, or rising from 0.

python -m redi_lab loss.alpha_schedule=cosine
"""

from __future__ import annotations

import math
from typing import Literal

AlphaSchedule = Literal["constant", "linear", "cosine", "warmup"]
WARMUP_SHARE = 0.1


def strength(schedule: AlphaSchedule, progress: float) -> float:
    """What the weight of the negative term is multiplied by, in [0, 1].

    Args:
        schedule: constant; linear or cosine, from 1 to 0 at the end; warmup, from 0 to 1 over the first tenth.
        progress: share of the optimizer steps that are done, in [0, 1].
    """
    match schedule:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - progress
        case "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        case "warmup":
            return min(1.0, progress / WARMUP_SHARE)
