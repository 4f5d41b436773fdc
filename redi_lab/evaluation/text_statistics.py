"""What completions look like, whatever their verdict: length and second thoughts (the paper's Fig. 8).

text_statistics(["Wait, no.", "It is 2."], [4, 5])["waits_per_completion"]  # 0.5
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

_WAIT = re.compile(r"\bWait\b")
"""Opens a second thought in reasoning traces; in lower case the word mostly belongs to the problem's story."""


def text_statistics(texts: Sequence[str], num_tokens: Sequence[int]) -> dict[str, float]:
    """Lengths in tokens, and how often "Wait" is said. A completion that was cut counts with the tokens it has.

    Args:
        texts: One or more completions.
        num_tokens: Length of each.

    Returns:
        `mean_tokens`, the quantiles `tokens_p10`, `tokens_p50` and `tokens_p90`, `waits_per_completion`, and
        `waits_per_1k_tokens` over all completions together (0 where there is no token).
    """
    lengths = np.asarray(num_tokens, dtype=np.float64)
    waits = sum(len(_WAIT.findall(text)) for text in texts)
    quantiles = {f"tokens_p{q}": float(np.percentile(lengths, q)) for q in (10, 50, 90)}
    rate = 1000 * waits / lengths.sum() if lengths.sum() else 0.0
    means = {"mean_tokens": float(lengths.mean()), "waits_per_completion": waits / len(texts)}
    return means | quantiles | {"waits_per_1k_tokens": float(rate)}
