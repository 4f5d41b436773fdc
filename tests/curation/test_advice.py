"""Shares at risk by hand, and the stationary point against a policy that is trained to it."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest
import torch

from redi_lab.curation.advice import TokenCounts
from redi_lab.data.examples import Example
from redi_lab.data.tokenization import TokenizedSequence


def sequence(prompt: str, completion: str, is_chosen: bool, weights: list[float] | None = None) -> TokenizedSequence:
    """Characters are tokens."""
    ids = array("i", map(ord, prompt + completion))
    return TokenizedSequence("a", ids, len(prompt), is_chosen, token_weights=weights)


def pair(chosen: str, rejected: str, prompt: str = "?") -> Example:
    return sequence(prompt, chosen, True), sequence(prompt, rejected, False)


def edges_of(counts: TokenCounts, is_swapped: Any = None) -> dict[str, tuple[float, float]]:
    """Context and token to edge and mass."""
    risk = counts.risk(is_swapped)
    texts = ["".join(map(chr, counts.text(int(place)))) for place in risk.places]
    return dict(zip(texts, zip(risk.edges.tolist(), risk.masses.tolist(), strict=True), strict=True))


def test_edges_by_hand() -> None:
    """After `?` chosen traces of two tokens give x ½ and y ½, rejected ones of one token x 1 twice: edges ¼ and ∞."""
    counts = TokenCounts([pair("xb", "x"), pair("yb", "x")], context=1)
    risk = counts.risk()
    assert edges_of(counts) == {"?x": (0.25, 0.25), "?y": (np.inf, 0.25), "xb": (np.inf, 0.25), "yb": (np.inf, 0.25)}
    assert [risk.share(alpha) for alpha in (0.0, 0.25, 0.26, 1.0)] == [0, 0, 0.25, 0.25]
    assert list(risk.heaviest(0.25, 9)) == []
    assert list(risk.heaviest(0.5, 9)) == [(0, 0.25, 0.25)]
    assert counts.text(0) == [ord("?"), ord("x")]


def test_a_context_reaches_into_the_prompt_and_no_further_than_the_start() -> None:
    examples = [pair("x", "x", "1"), pair("x", "y", "2")]
    assert edges_of(TokenCounts(examples, context=9)) == {"1x": (1.0, 0.5), "2x": (np.inf, 0.5)}


def test_weights_are_those_of_the_loss() -> None:
    """|y| is Σ|c|: of chosen `ab`, weighted 3 and 1, a has ¾; rejected `ac` masks its a."""
    weighted = (sequence("?", "ab", True, [3.0, 1.0]), sequence("?", "ac", False, [0.0, 2.0]))
    assert edges_of(TokenCounts([weighted], context=1)) == {"?a": (np.inf, 0.75), "ab": (np.inf, 0.25)}


def test_sides_are_exchanged_where_the_mask_says_so() -> None:
    counts = TokenCounts([pair("x", "y"), pair("x", "y"), pair("x", "y")], 1)
    assert edges_of(counts, np.array([False, False, False])) == {"?x": (np.inf, 1.0)}
    assert edges_of(counts, np.array([True, True, True])) == {"?y": (np.inf, 1.0)}
    assert edges_of(counts, np.array([False, True, False])) == {"?x": (2.0, 2 / 3), "?y": (0.5, 1 / 3)}


def test_many_contexts_are_told_apart() -> None:
    """A context of two of 20 letters and a token of five, 2,000 of them once each: no two share a hash."""
    letters = [chr(ord("a") + n) for n in range(20)]
    texts = [a + b + c for a in letters for b in letters for c in letters[:5]]
    examples = [pair(text, "-" + text[::-1]) for text in texts]
    found = [text for text in edges_of(TokenCounts(examples, context=2)) if len(text) == 3 and text[0] != "?"]
    assert sorted(found) == sorted(texts)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 0.45])
def test_below_its_edges_the_loss_is_stationary_where_the_equation_says(alpha: float) -> None:
    """A policy that sees one token: of `?`, x in 2 of 3 chosen and 1 of 3 rejected traces; edges 2 and ½."""
    examples = [pair("x", "y"), pair("x", "y"), pair("y", "x")]
    logits = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, tolerance_grad=1e-9, line_search_fn="strong_wolfe")
    signs = [
        (sequence.input_ids[1] == ord("y"), 1.0 if sequence.is_chosen else -alpha) for e in examples for sequence in e
    ]

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        logps = logits.log_softmax(0)
        value = torch.stack([-sign * logps[int(place)] for place, sign in signs]).mean()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    found = edges_of(TokenCounts(examples, context=1))
    assert {text: edge for text, (edge, _) in found.items()} == {"?x": 2.0, "?y": 0.5}
    expected = [
        (mass - alpha * mass / edge) / (1 - alpha) for mass, edge in ((m, e) for e, m in sorted(found.values())[::-1])
    ]
    assert logits.softmax(0).tolist() == pytest.approx(expected, abs=1e-4)
