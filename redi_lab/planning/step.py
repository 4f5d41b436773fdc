"""What a training step takes: the most memory on a device, by what it is for, and floating-point operations."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from redi_lab.planning.footprint import Layers, Sizes


def step_memory(
    sizes: Sizes,
    layers: Layers,
    *,
    is_gpu: bool,
    is_mixed: bool,
    targets: int,
    chunk: int,
    has_many_rows: bool,
    keeps_update: bool,
    splits_gradient: bool,
    shards: int = 1,
) -> dict[str, int]:
    """Bytes by component at the moment of a step that takes most; weights and optimizer are not among them.

    These moments are: the head's pass, the backward pass of the last layer, its end, when the embedding's gradient
    meets the head's, and the optimizer's step.

    Args:
        sizes: of the model.
        layers: what they hold for the largest row.
        is_gpu: whether memory is of a GPU, where nothing is kept for the next chunk.
        is_mixed: whether products are in bfloat16 and weights are not.
        targets: completion tokens of the largest row.
        chunk: tokens of the head at a time.
        has_many_rows: whether a step has more than one, so that gradients lie beside activations.
        keeps_update: whether the update's norm is measured.
        splits_gradient: whether the gradient's two terms are compared, which takes up to two more copies of it.
        shards: among how many devices gradients are shared out; those of the head and the embeddings are whole until
            the end of each backward pass, and once more where they are sent.
    """
    gradients, (vocabulary, width) = sizes.trained_bytes // shards, sizes.head
    matrix, cell = vocabulary * width, 2 if is_mixed else 4
    head_gradient = 4 * matrix * sizes.is_head_trained
    states = 2 * cell * width * targets  # and their gradient
    casts = is_mixed + (is_mixed and sizes.is_head_trained and not is_gpu)  # of the weights, and of a chunk's gradient
    scratch = cell * (min(targets, chunk) * vocabulary + matrix * casts)
    left = 0 if is_gpu else scratch
    # Held until the embedding's has been found, where they are the same weights; or it is the first gradient of all.
    held = head_gradient * (sizes.is_tied or not has_many_rows or shards > 1)
    is_there = has_many_rows or splits_gradient
    during = gradients * (is_there + splits_gradient)
    of_both = 2 * (2 - sizes.is_tied) if shards > 1 else 1 + (sizes.is_tied and is_there)
    at_end = left + head_gradient * of_both
    moments = [
        {"gradients": during, "activations": layers.kept, "head": scratch + head_gradient + states},
        {"gradients": during, "activations": layers.peak, "head": left + held + states},
        {"gradients": gradients * (1 + 2 * splits_gradient), "activations": 0, "head": at_end},
        {"gradients": gradients * (1 + keeps_update), "activations": 0, "head": left},
    ]
    return max(moments, key=lambda parts: sum(parts.values()))


def gathered_memory(sizes: Sizes, *, layers: int, bytes_each: int) -> int:
    """Bytes that a device holds whole where weights are shared out (`backbone.sharding`).

    These are head and embeddings, and of two layers, one of which is fetched ahead, weights and gradients.

    Args:
        sizes: of the model.
        layers: their number.
        bytes_each: of a weight.
    """
    outside = math.prod(sizes.head) * (2 - sizes.is_tied)
    weights, trained = bytes_each * outside, 4 * outside * sizes.is_head_trained
    return weights + 2 * (sizes.weight_bytes - weights + sizes.trained_bytes - trained) // layers


class Work(NamedTuple):
    """Operations of a forward pass; a step that trains everything takes three times their sum.

    A product of two numbers and its addition are two.
    """

    layers: float
    attention: float
    head: float

    def of_a_step(self, *, trained_share: float, is_head_trained: bool, checkpointing: str) -> float:
        """Operations of a step as it is run: frozen weights have no gradient, "full" makes the layers' pass again.

        "selective" makes again only what is cheap.
        """
        again = checkpointing == "full"
        layers = (2 + trained_share + again) * self.layers
        return layers + (3 + again) * self.attention + (2 + is_head_trained) * self.head


def forward_work(sequences: Iterable[tuple[int, int]], *, products: int, attention_width: int, head: int) -> Work:
    """The work of one forward pass.

    Args:
        sequences: (tokens, completion tokens) of each; the head sees completion tokens alone.
        products: weights of the matrix products of all layers.
        attention_width: of all heads over all layers; causal attention takes half its square.
        head: weights of the head.
    """
    tokens = squares = completion = 0
    for length, of_completion in sequences:
        tokens, squares, completion = tokens + length, squares + length**2, completion + of_completion
    return Work(2.0 * tokens * products, 2.0 * squares * attention_width, 2.0 * completion * head)
