"""How far a policy has gone from the sampler of its traces, by the log-probs that both give them.

    found = staleness(sampler=[-3.0, -5.0], policy=[-3.5, -4.5], num_tokens=[10, 12], groups=["a", "b"])
    found["kl_per_token"], found["ess_share"]

Traces y are drawn from the sampler μ, so the mean of log μ(y) − log π(y) estimates KL(μ ‖ π), and w = π/μ are the
importance weights of the policy π on them. Their effective sample size, (Σw)²/Σw² as a share of the traces, says how
many traces of the policy's own they are worth.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def staleness(
    sampler: Sequence[float], policy: Sequence[float], num_tokens: Sequence[int], groups: Sequence[str]
) -> dict[str, float]:
    """Estimates over traces, of which there is one or more.

    Args:
        sampler: log-prob of each trace under what drew it, in nats.
        policy: the same under the policy.
        num_tokens: of each trace.
        groups: the problem of each; traces of one problem are not independent.

    Returns:
        `kl` in nats per trace, `kl_sem` its standard error over problems, `kl_per_token`, and `ess_share`.
    """
    gaps = np.asarray(sampler, dtype=np.float64) - np.asarray(policy, dtype=np.float64)
    names, owners = np.unique(list(groups), return_inverse=True)
    of_groups = np.bincount(owners, gaps - gaps.mean(), minlength=len(names))
    weights = np.exp(gaps.min() - gaps)  # up to a factor, the largest 1
    return {
        "kl": float(gaps.mean()),
        "kl_sem": float(np.sqrt((of_groups**2).sum()) / len(gaps)),
        "kl_per_token": float(gaps.sum() / np.sum(num_tokens)),
        "ess_share": float(weights.sum() ** 2 / (weights**2).sum() / len(gaps)),
    }
