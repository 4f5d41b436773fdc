"""When is a run collapsing? A pure online rule on its curves alone.

    memory = Memory()
    for step, values in measurements:  # {"probe/chosen_mean_logps": -0.41, ...}, as they come
        memory = observe(memory, step, values, Limits())
    memory.verdict.state, memory.verdict.reason

In a collapse, chosen and rejected log-probs plunge together; in good REDI runs they sink together, too, but slowly. So
the rule asks how much was lost *lately*, in nats: how far a curve has fallen below its best value of the last
`window_steps`. A slow decline of any depth passes. Two curves are watched, both on sequences that are not trained on:

- `probe/median_min_token_logp`, the least likely token of a typical correct trace. It rises while a policy gets surer
  of its ways and plunges when nothing it used to say is safe any more, which is what a collapse is. It warns first.
- `probe/chosen_mean_logps`, the mean over all tokens. It sees what spreads over all tokens at once.

In runs without probes `train/mean_logps/chosen` is watched. Every batch is another one there, so its fall must also
exceed the batches' own noise, and it is noticed later. Gradient norms say nothing, and update norms little more than
the learning rate (`experiments/collapse_detector`).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from itertools import pairwise
from typing import NamedTuple, final

TOKEN_PROBE = "probe/median_min_token_logp"
CHOSEN_PROBE = "probe/chosen_mean_logps"
CHOSEN_BATCH = "train/mean_logps/chosen"

_NOUNS = {
    TOKEN_PROBE: "the least likely token of a typical held-back positive",
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
    """How much a run may lose within a window. Raise them where good runs are flagged.

    Attributes:
        token_nats: fall of the typical least likely token's log-prob; 6 nats make it 400 times less likely.
        chosen_nats: fall of the mean log-prob per token.
        window_steps: optimizer steps within which a fall counts.
        confirmations: consecutive measurements beyond a limit that make a collapse.
        drifting_share: share of a limit from which a run is drifting.
        deviations: robust standard deviations of the batches' noise that a fall must exceed, too, without probes.
    """

    token_nats: float = 6.0
    chosen_nats: float = 0.3
    window_steps: int = 50
    confirmations: int = 1
    drifting_share: float = 0.5
    deviations: float = 6.0


@final
@dataclass(frozen=True, slots=True)
class CollapseVerdict:
    """What the rule says about a run.

    Attributes:
        state: how it is doing. A collapse is final.
        step: since when.
        statistic: the largest fall as a share of its limit; 1 is at the limit.
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
        streak: measurements beyond a limit, up to now and without a break.
        verdict: the last one.
    """

    points: Mapping[str, _Curve] = field(default_factory=dict)
    streak: int = 0
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
    return (TOKEN_PROBE, CHOSEN_PROBE) if CHOSEN_PROBE in logged else (CHOSEN_BATCH,)


def observe(memory: Memory, step: int, values: Mapping[str, float], limits: Limits) -> Memory:
    """Take in a measurement.

    Args:
        memory: what came before.
        step: optimizer steps behind the measured weights; never falls.
        values: what was measured of `watched_curves`, in nats per token.
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
    for name, value in values.items():
        points[name] = _appended(points.get(name, ()), step, value, limits)
        if name == CHOSEN_BATCH:
            median = statistics.median(value for _, value in points[name][-_SMOOTHED_BATCHES:])
            points[_SMOOTHED] = _appended(points.get(_SMOOTHED, ()), step, median, limits)
    fall = max((_fall(name, points, limits) for name in values), key=lambda fall: fall.share)
    streak = memory.streak + 1 if fall.share >= 1 else 0
    if streak >= limits.confirmations:
        state = CollapseState.COLLAPSED
    else:
        state = CollapseState.DRIFTING if fall.share >= limits.drifting_share else CollapseState.HEALTHY
    return _concluded(replace(memory, points=points, streak=streak), step, fall, state)


def _concluded(memory: Memory, step: int, fall: _Fall, state: CollapseState) -> Memory:
    old = memory.verdict
    since = old.step if state is old.state else step
    return replace(memory, verdict=CollapseVerdict(state, since, fall.share, fall.reason))


def _appended(points: _Curve, step: int, value: float, limits: Limits) -> _Curve:
    """A curve with one more point, and without what is older than the window."""
    return (*(point for point in points if point[0] >= step - limits.window_steps), (step, value))


def _fall(name: str, points: Mapping[str, _Curve], limits: Limits) -> _Fall:
    """The fall of a curve within the window, as a share of what is allowed."""
    limit, curve = limits.token_nats if name == TOKEN_PROBE else limits.chosen_nats, points[name]
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
