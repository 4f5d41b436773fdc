"""How many floating-point operations a training step takes; a product of two numbers and its addition are two."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Work(NamedTuple):
    """Operations of a forward pass; a step that trains everything takes three times their sum."""

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
