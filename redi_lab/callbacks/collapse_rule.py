"""When is a run collapsing? A pure online rule on its curves alone.

    memory = Memory()
    for step, values in measurements:  # {"probe/chosen_mean_logps": -0.41, ...}, as they come
        memory = observe(memory, step, values, Limits())
    memory.verdict.state, memory.verdict.reason

In a collapse, chosen and rejected log-probs plunge together; in good REDI runs they sink together, too, but slowly. So
the rule asks how much was lost *lately*: how far the mean log-prob of held-back positives has fallen below its best
value of the last `window_steps`. A slow decline of any depth passes. A small fall makes a run suspect (drifting), and
then accuracy decides, where it is measured: a run that has lost a good part of its best has collapsed. A large fall is
a collapse in the sense of arXiv 2505.24850, whatever accuracy says.

In runs without probes `train/mean_logps/chosen` is watched. Every batch is another one there, so its fall must also
exceed the batches' own noise, and it is noticed later. How the limits were found, and what other curves say, is in
`experiments/collapse_detector`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple, final

CHOSEN_PROBE = "probe/chosen_mean_logps"
CHOSEN_BATCH = "train/mean_logps/chosen"
ACCURACY = "val/pass_at_1"

_NOUNS = {
    CHOSEN_PROBE: "the mean log-prob of held-back positives",
    CHOSEN_BATCH: "the mean log-prob of the batches' chosen traces",
}
_SMOOTHED = f"{CHOSEN_BATCH} (median)"
_SMOOTHED_BATCHES = 5
_MIN_BATCHES = 10
"""Fewest batches whose noise can be estimated."""
_NORMAL = 1.4826
"""Standard deviations in a median absolute deviation of normal noise."""


_Curve = tuple[tuple[int, float], ...]
"""(step, value), oldest first."""


class CollapseState(IntEnum):
    """How a run is doing; as a number it is the metric `collapse/state`."""

    HEALTHY = 0
    DRIFTING = 1
    COLLAPSED = 2


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """How much a run may lose. Raise them where good runs are flagged.

    Attributes:
        drifting_nats: fall of the mean log-prob per token within the window from which a run is drifting.
        collapsed_nats: fall that is a collapse by itself.
        harm_share: share of the best accuracy so far whose loss makes a collapse of a drift.
        window_steps: optimizer steps within which a fall counts.
        deviations: robust standard deviations of the batches' noise that a fall must exceed, too, without probes.
    """

    drifting_nats: float = 0.1
    collapsed_nats: float = 0.3
    harm_share: float = 0.25
    window_steps: int = 50
    deviations: float = 6.0


@final
@dataclass(frozen=True, slots=True)
class CollapseVerdict:
    """What the rule says about a run.

    Attributes:
        state: how it is doing. A collapse is final.
        step: since when.
        statistic: the fall as a share of what is a collapse by itself; 1 is at the limit.
        reason: in words.
    """

    state: CollapseState = CollapseState.HEALTHY
    step: int = 0
    statistic: float = 0.0
    reason: str = "nothing measured yet"


@final
@dataclass(frozen=True, slots=True)
class Memory:
    """All that the rule remembers. A plain value: keep one, and the rule goes on from there.

    Attributes:
        points: curve to its (step, value) within the window, oldest first.
        best_accuracy: the highest so far; None before the first.
        verdict: the last one.
    """

    points: Mapping[str, _Curve] = field(default_factory=dict)
    best_accuracy: float | None = None
    verdict: CollapseVerdict = field(default_factory=CollapseVerdict)

    def moved(self, steps: int) -> Memory:
        """The same memory for a run that goes on from these weights `steps` steps later."""
        points = {name: tuple((step + steps, value) for step, value in old) for name, old in self.points.items()}
        return replace(self, points=points)


class _Fall(NamedTuple):
    share: float
    reason: str


def watched_curves(logged: Container[str]) -> tuple[str, ...]:
    """Names of the metrics to `observe` in a run that logs these ones."""
    return CHOSEN_PROBE if CHOSEN_PROBE in logged else CHOSEN_BATCH, ACCURACY


def observe(memory: Memory, step: int, values: Mapping[str, float], limits: Limits) -> Memory:
    """Take in a measurement.

    Args:
        memory: what came before.
        step: optimizer steps behind the measured weights; never falls.
        values: what was measured of `watched_curves`, in nats per token, and as a share.
        limits: when to say what.

    Returns:
        The memory with the new verdict; the same one after a collapse, which is final.
    """
    if memory.verdict.state is CollapseState.COLLAPSED:
        return memory
    for name, value in values.items():
        if not math.isfinite(value):
            return _concluded(memory, step, _Fall(math.inf, f"{name} is {value}"), CollapseState.COLLAPSED)
    points = dict(memory.points)
    fall = _Fall(memory.verdict.statistic, memory.verdict.reason)
    for name in (name for name in _NOUNS if name in values):
        points[name] = _appended(points.get(name, ()), step, values[name], limits)
        if name == CHOSEN_BATCH:
            median = statistics.median(value for _, value in points[name][-_SMOOTHED_BATCHES:])
            points[_SMOOTHED] = _appended(points.get(_SMOOTHED, ()), step, median, limits)
        fall = _fall(name, points, limits)
    accuracies = [value for value in (memory.best_accuracy, values.get(ACCURACY)) if value is not None]
    memory = replace(memory, points=points, best_accuracy=max(accuracies, default=None))
    if fall.share >= 1:
        return _concluded(memory, step, fall, CollapseState.COLLAPSED)
    if fall.share < limits.drifting_nats / limits.collapsed_nats:
        return _concluded(memory, step, fall, CollapseState.HEALTHY)
    if ACCURACY in values and values[ACCURACY] < (1 - limits.harm_share) * max(accuracies):
        loss = f"accuracy fell from {max(accuracies):.3g} to {values[ACCURACY]:.3g}, and {fall.reason}"
        return _concluded(memory, step, fall._replace(reason=loss), CollapseState.COLLAPSED)
    return _concluded(memory, step, fall, CollapseState.DRIFTING)


def _concluded(memory: Memory, step: int, fall: _Fall, state: CollapseState) -> Memory:
    old = memory.verdict
    since = old.step if state is old.state else step
    return replace(memory, verdict=CollapseVerdict(state, since, fall.share, fall.reason))


def _appended(points: _Curve, step: int, value: float, limits: Limits) -> _Curve:
    """A curve with one more point, and without what is older than the window."""
    return (*(point for point in points if point[0] >= step - limits.window_steps), (step, value))


def _fall(name: str, points: Mapping[str, _Curve], limits: Limits) -> _Fall:
    """The fall of a curve within the window, as a share of what is a collapse."""
    limit, curve = limits.collapsed_nats, points[name]
    if name == CHOSEN_BATCH:
        if len(curve) < _MIN_BATCHES:
            return _Fall(0.0, "too few batches so far")
        limit, curve = max(limit, limits.deviations * _noise(curve)), points[_SMOOTHED]
    step, now = curve[-1]
    best_step, best = max(curve, key=lambda point: point[1])
    return _Fall(
        (best - now) / limit,
        f"{_NOUNS[name]} fell by {best - now:.2g} nats within {step - best_step} steps, from {best:.2f} to {now:.2f}"
        f" (limit {limit:.2g} within {limits.window_steps})",
    )


def _noise(batches: _Curve) -> float:
    """Robust standard deviation of one smoothed value; the differences of neighbours do not feel a slow trend."""
    steps = [abs(after - before) for (_, before), (_, after) in pairwise(batches)]
    return _NORMAL * statistics.median(steps) / math.sqrt(2 * _SMOOTHED_BATCHES)
