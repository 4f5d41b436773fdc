"""Which α a set of pairs bears, by counting: no model is needed.

    counts = TokenCounts(data.train_examples, context=4)
    counts.risk().share(0.8)  # of the chosen loss mass, on tokens that α = 0.8 pushes down without bound
    counts.risk(swapped).share(0.8)  # where the sides of these pairs are exchanged

For a policy that sees the last k tokens alone, REDI's loss is −Σ (A(c,v) − α B(c,v)) log p(v|c), where A and B sum what
the loss gives token v in context c: the weights w c_t/|y| of chosen and of rejected traces. It is stationary at

    p(v|c) = (A(c,v) − α B(c,v)) / (A(c) − α B(c))

as long as the numerator is positive. Beyond α = A(c,v)/B(c,v), the token's *edge*, the loss falls without bound as
p → 0, although chosen traces hold the token. A real policy shares parameters between contexts: this says what pulls at
it, not where it ends.

In rare contexts edges are low by chance alone. How much that is, pairs show whose sides are exchanged at random.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from numpy.typing import NDArray

from redi_lab.data.examples import Example
from redi_lab.data.tokenization import TokenizedSequence

Floats = NDArray[np.float64]
_MULTIPLIER = np.uint64(6364136223846793005)  # Knuth's, of MMIX: odd, so that no token's bits are lost modulo 2⁶⁴


@final
@dataclass(frozen=True)
class Risk:
    """Tokens of chosen traces in their contexts, by increasing edge.

    Attributes:
        edges: (n,) the α beyond which each is pushed down without bound; infinite where no rejected trace has it.
        masses: (n,) its share of what the loss gives to chosen traces; they sum to 1.
        places: (n,) where each first appears, for `TokenCounts.text`.
    """

    edges: Floats
    masses: Floats
    places: NDArray[np.int64]

    def share(self, alpha: float) -> float:
        """Mass of the tokens whose edge is below α."""
        return float(self.masses[self.edges < alpha].sum())

    def heaviest(self, alpha: float, number: int) -> Iterator[tuple[int, float, float]]:
        """(place, edge, mass) of those at risk at α, the heaviest first."""
        places = np.flatnonzero(self.edges < alpha)
        for place in places[np.argsort(-self.masses[places], kind="stable")][:number]:
            yield int(self.places[place]), float(self.edges[place]), float(self.masses[place])


@final
class TokenCounts:
    """What the loss gives to each token in each context, on either side.

    Args:
        examples: pairs of a chosen and a rejected sequence, weighted as for training. A negative token weight counts
            against its side.
        context: k, how many tokens before a token make its context, those of the prompt included; at least 1.
    """

    def __init__(self, examples: Sequence[Example], context: int) -> None:
        self._sequences = [sequence for example in examples for sequence in example]
        self._context = context
        lengths = [sequence.completion_length for sequence in self._sequences]
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        hashes = np.concatenate([_hashes(sequence, context) for sequence in self._sequences])
        _, self._first, self._kind = np.unique(hashes, return_index=True, return_inverse=True)
        self._weights = np.concatenate([_weights(sequence) for sequence in self._sequences])
        self._is_chosen = np.repeat([sequence.is_chosen for sequence in self._sequences], lengths)
        self._pair = np.repeat(np.repeat(np.arange(len(examples)), 2), lengths)

    def risk(self, is_swapped: NDArray[np.bool_] | None = None) -> Risk:
        """Edges and masses; of pairs some of which have their sides exchanged, where a mask (pairs,) says so."""
        is_chosen = self._is_chosen if is_swapped is None else self._is_chosen ^ is_swapped[self._pair]
        chosen = np.bincount(self._kind, np.where(is_chosen, self._weights, 0.0))
        rejected = np.bincount(self._kind, np.where(is_chosen, 0.0, self._weights))
        held = np.flatnonzero(chosen > 0)
        edges = np.full(len(held), np.inf)
        np.divide(chosen[held], rejected[held], out=edges, where=rejected[held] > 0)
        order = np.argsort(edges, kind="stable")
        return Risk(edges[order], chosen[held[order]] / chosen[held].sum(), self._first[held[order]])

    def text(self, place: int) -> list[int]:
        """Token ids of the context of a token and of the token, by its place."""
        number = int(np.searchsorted(self._starts, place, side="right")) - 1
        sequence = self._sequences[number]
        at = sequence.prompt_length + place - int(self._starts[number])
        return list(sequence.input_ids[max(0, at - self._context) : at + 1])


def _hashes(sequence: TokenizedSequence, context: int) -> NDArray[np.uint64]:
    """(|y|,) a number for each completion token and the `context` tokens before it."""
    ids = np.asarray(sequence.input_ids, dtype=np.uint64) + np.uint64(1)  # 0 stands before the first token
    padded = np.concatenate([np.zeros(context, dtype=np.uint64), ids])
    found = np.zeros(sequence.completion_length, dtype=np.uint64)
    for back in range(context + 1):
        start = sequence.prompt_length + back
        found = (found + padded[start : start + len(found)]) * _MULTIPLIER
        found ^= found >> np.uint64(29)
    return found


def _weights(sequence: TokenizedSequence) -> Floats:
    """(|y|,) what the loss multiplies each log-prob with."""
    tokens = np.ones(sequence.completion_length) if sequence.token_weights is None else sequence.token_weights
    weights: Floats = np.asarray(tokens, dtype=np.float64) * (sequence.weight / sequence.weighted_length)
    return weights
