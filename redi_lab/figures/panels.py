"""Which metrics are drawn as curves: the paper's four panels, and those that explain them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Panel:
    """One plot of a figure.

    Attributes:
        title: Heading.
        unit: Label of the vertical axis.
        metrics: Names to look for; every run draws the first one that it has.
        is_noisy: Whether long curves are smoothed; otherwise the points are the curve.
        dotted: A metric drawn dotted beside it.
        band: Metrics of an interval around it.
        final: A metric whose last value is marked with a diamond.
        is_share: Whether the values lie between 0 and 1: the axis stays there, and is plain.
    """

    title: str
    unit: str
    metrics: tuple[str, ...]
    is_noisy: bool = False
    dotted: str = ""
    band: tuple[str, ...] = ()
    final: str = ""
    is_share: bool = False


PANELS = (
    Panel(
        "Accuracy (band: 95 % CI)",
        "pass@1",
        ("val/pass_at_1", "eval/pass_at_1"),
        band=("val/pass_at_1_ci_low", "val/pass_at_1_ci_high"),
        final="eval/pass_at_1",
        is_share=True,
    ),
    Panel(
        "Chosen LogPS (dotted: probes)",
        "nats/token",
        ("train/mean_logps/chosen", "val/mean_logps/chosen"),
        is_noisy=True,
        dotted="probe/chosen_mean_logps",
    ),
    Panel(
        "Rejected LogPS (dotted: probes)",
        "nats/token",
        ("train/mean_logps/rejected", "val/mean_logps/rejected"),
        is_noisy=True,
        dotted="probe/rejected_mean_logps",
    ),
    Panel("Update norm", "‖Δθ‖₂ per step", ("train/update_norm",), is_noisy=True),
)
"""The paper's four."""
DIAGNOSTICS = (
    Panel("Loss", "loss", ("train/loss",), is_noisy=True),
    Panel("Gradient norm", "‖∇θ‖₂", ("train/grad_norm",), is_noisy=True),
    Panel("Gradient norm of the chosen term", "‖∇θ‖₂", ("train/grad_norm_chosen",)),
    Panel("Gradient norm of the rejected term", "‖∇θ‖₂", ("train/grad_norm_rejected",)),
    Panel("Cosine of the two terms", "−1: they cancel", ("train/grad_cosine",)),
    Panel("Likelihood displacement", "nats/token", ("probe/displacement",)),
    Panel("Least likely token of the probes", "nats", ("probe/min_token_logp",)),
    Panel("Probe tokens less likely than at the start", "share", ("probe/fallen_share",), is_share=True),
    Panel("Entropy at the probes", "nats", ("probe/entropy",)),
    Panel("End of turn where the probes end", "probability", ("probe/eos_probability",), is_share=True),
    Panel("Generation length", "tokens", ("val/mean_tokens",)),
    Panel("Truncated generations", "share", ("val/truncation_rate",), is_share=True),
    Panel("Learning rate", "learning rate", ("train/lr",)),
)
"""What explains the paper's four."""
TEXT = (
    Panel('"Wait" in a generation', "count", ("val/waits_per_completion",)),
    Panel('"Wait" per thousand generated tokens', "count", ("val/waits_per_1k_tokens",)),
    Panel("Entropy on rejected probes", "nats", ("probe/rejected_entropy",)),
    Panel("Entropy on generated text", "nats", ("val/entropy",)),
)
"""What further figures of the paper plot."""
