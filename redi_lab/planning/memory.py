"""The most memory that a training step takes on a device, by what it is for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from redi_lab.planning.footprint import Layers, Sizes


@final
@dataclass(frozen=True)
class Situation:
    """What beside the model decides how much memory a step takes.

    Attributes:
        is_gpu: whether it is of a GPU.
        is_mixed: whether products are in bfloat16 and weights are not.
        targets: completion tokens of the largest row.
        chunk: tokens of the head at a time.
        has_many_rows: whether a step has more than one, so that gradients lie beside the activations.
        moments: copies that the optimizer keeps.
        keeps_update: whether the update's norm is measured.
        splits_gradient: whether the gradient's two terms are compared.
        num_devices: over all nodes.
        libraries: bytes of interpreter and libraries, or of the GPU's context.
    """

    is_gpu: bool
    is_mixed: bool
    targets: int
    chunk: int
    has_many_rows: bool
    moments: int
    keeps_update: bool
    splits_gradient: bool
    num_devices: int
    libraries: int


def step_memory(sizes: Sizes, layers: Layers, at: Situation) -> dict[str, int]:
    """Bytes by component at the moment of a step that takes most.

    These moments are: the head's pass, the backward pass of the last layer, its end, when the embedding's gradient
    meets the head's, and the optimizer's step.
    """
    gradients, (vocabulary, width) = sizes.trained_bytes, sizes.head
    matrix, cell = vocabulary * width, 2 if at.is_mixed else 4
    head_gradient = 4 * matrix * sizes.is_head_trained
    states = 2 * cell * width * at.targets
    scratch = cell * min(at.targets, at.chunk) * vocabulary + cell * matrix * at.is_mixed
    scratch += cell * matrix * (at.is_mixed and sizes.is_head_trained and not at.is_gpu)  # sums of chunks are rounded
    left = 0 if at.is_gpu else scratch  # kept from step to step
    # Held until the embedding's has been found, where they are the same weights; or it is the first gradient of all.
    held = head_gradient * (sizes.is_tied or not at.has_many_rows)
    during = gradients * (at.has_many_rows or at.splits_gradient)
    apart = gradients * at.splits_gradient
    moments = {
        "head": {"gradients": during + apart, "activations": layers.kept, "head": scratch + head_gradient + states},
        "backward": {"gradients": during + apart, "activations": layers.peak, "head": left + held + states},
        "end": {"gradients": gradients + 2 * apart, "head": left + head_gradient * (1 + sizes.is_tied * (during > 0))},
        "step": {"gradients": gradients, "update norm": gradients * at.keeps_update, "head": left},
    }
    state = {
        "weights": sizes.weight_bytes,
        "optimizer": at.moments * gradients,
        "gradient buckets": gradients * (at.num_devices > 1),
        "libraries": at.libraries,
    }
    return state | max(moments.values(), key=lambda parts: sum(parts.values()))
