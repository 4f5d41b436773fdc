"""Names of the metrics that a training run logs."""

from __future__ import annotations

from collections.abc import Collection

_STEP_METRICS = ("loss", "logps/chosen", "mean_logps/chosen")
_STEP_MEASURES = ("grad_norm", "update_norm", "lr", "tokens_per_second", "padding_share", "row_fill")
_REJECTED_METRICS = ("logps/rejected", "mean_logps/rejected")
_REWARD_METRICS = tuple(f"rewards/{name}" for name in ("chosen", "rejected", "margins", "accuracies"))
GRADIENT_METRICS = ("train/grad_norm_chosen", "train/grad_norm_rejected", "train/grad_cosine")
CALLBACK_METRICS = {
    "accuracy": tuple(
        f"val/{name}"
        for name in (
            *("pass_at_1", "pass_at_1_ci_low", "pass_at_1_ci_high", "truncation_rate", "mean_tokens"),
            *("waits_per_completion", "waits_per_1k_tokens", "entropy"),
        )
    ),
    "probes": (
        *(f"probe/{name}" for name in ("chosen_mean_logps", "rejected_mean_logps", "min_token_logp")),
        *(f"probe/{name}" for name in ("median_min_token_logp", "entropy", "eos_probability", "fallen_share")),
        *("probe/rejected_entropy", "probe/displacement", "probe/displacement_per_nat"),
    ),
    "gradient_conflict": GRADIENT_METRICS,
    "collapse": ("collapse/state", "collapse/statistic"),
}
"""What callbacks log, by their name in the callbacks group."""
_SCORES = ("loss", "scores/chosen", "scores/rejected", "scores/accuracy")
"""Of a token reward model, in place of log-probs."""
_UNPAIRED = tuple(f"{name}Module" for name in ("UnpairedREDI", "WReinforce", "AsymRE", "OREAL", "AStarPO", "KTO"))
_LOGISTIC = tuple(f".{name}Module" for name in ("DPO", "DPOShift", "SimPO"))
_NEED_REJECTED = (
    *(f"probe/{name}" for name in ("rejected_mean_logps", "rejected_entropy", "displacement", "displacement_per_nat")),
    *GRADIENT_METRICS,
)


def known_metrics(
    loss: str,
    *,
    has_validation: bool,
    has_divergence: bool = False,
    callbacks: Collection[str] = (),
) -> list[str]:
    """Names of the metrics that a training run logs.

    Args:
        loss: `_target_` of the loss group.
        has_validation: whether problems are kept for validation.
        has_divergence: whether the loss has a term that keeps tokens near the reference.
        callbacks: those of `CALLBACK_METRICS` that are on.
    """
    shared: tuple[str, ...] = _SCORES if loss.endswith("TokenRewardModule") else _STEP_METRICS
    if not loss.endswith(("SFTModule", "TokenRewardModule")):
        shared += _REJECTED_METRICS if loss.endswith(_UNPAIRED) else (*_REJECTED_METRICS, *_REWARD_METRICS)
    if loss.endswith(_LOGISTIC):
        shared += ("rewards/slope",)
    if loss.endswith("KTOModule"):
        shared += ("reference_point",)
    if has_divergence:
        shared += ("kl",)
    names = [f"train/{name}" for name in shared] + [f"val/{name}" for name in shared if has_validation]
    observed = [name for callback in callbacks for name in CALLBACK_METRICS[callback]]
    if loss.endswith("SFTModule"):
        observed = [name for name in observed if name not in _NEED_REJECTED]
    return sorted(names + [f"train/{name}" for name in _STEP_MEASURES] + observed)
