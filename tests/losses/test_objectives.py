"""What SFT, REDI, DPO and SimPO have in common: fp64 twins, indifference to padding, finiteness, refusals."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from redi_lab.losses.dpo import dpo_loss
from redi_lab.losses.logps import token_logps
from redi_lab.losses.redi import redi_loss
from redi_lab.losses.sequences import SequenceLogps, sum_by_sequence
from redi_lab.losses.sft import sft_loss
from redi_lab.losses.simpo import simpo_loss
from redi_lab.losses.vocabulary import Head

IGNORE_INDEX = -100
"""Label of prompt and padding, as in `torch.nn.functional.cross_entropy`."""


class Pairs(NamedTuple):
    """n pairs as every objective may need them."""

    chosen: SequenceLogps
    rejected: SequenceLogps
    reference_chosen: Tensor
    reference_rejected: Tensor


def sft(pairs: Pairs) -> Tensor:
    return sft_loss(pairs.chosen)


def redi(pairs: Pairs, alpha: float = 0.8) -> Tensor:
    return redi_loss(pairs.chosen, pairs.rejected, alpha=alpha)


def dpo(pairs: Pairs, beta: float = 0.1) -> Tensor:
    return dpo_loss(
        pairs.chosen._replace(reference=pairs.reference_chosen),
        pairs.rejected._replace(reference=pairs.reference_rejected),
        beta=beta,
    )


def simpo(pairs: Pairs, beta: float = 2.0, gamma: float = 1.0) -> Tensor:
    return simpo_loss(pairs.chosen, pairs.rejected, beta=beta, gamma=gamma)


# Second implementations: one pair at a time, Python floats, the paper's formulas as they stand.


class PairOfFloats(NamedTuple):
    """One pair, as plain numbers."""

    chosen: float
    rejected: float
    reference_chosen: float
    reference_rejected: float
    chosen_length: int
    rejected_length: int


def naive_logistic(x: float) -> float:
    return -math.log(1.0 / (1.0 + math.exp(-x)))


def twin_sft(pair: PairOfFloats) -> float:
    return -pair.chosen


def twin_redi(pair: PairOfFloats) -> float:
    return -pair.chosen / pair.chosen_length + 0.8 * pair.rejected / pair.rejected_length


def twin_dpo(pair: PairOfFloats) -> float:
    log_ratios = (pair.chosen - pair.reference_chosen, pair.rejected - pair.reference_rejected)
    return naive_logistic(0.1 * (log_ratios[0] - log_ratios[1]))


def twin_simpo(pair: PairOfFloats) -> float:
    means = (pair.chosen / pair.chosen_length, pair.rejected / pair.rejected_length)
    return naive_logistic(2.0 * means[0] - 2.0 * means[1] - 1.0)


Objective = Callable[[Pairs], Tensor]
Twin = Callable[[PairOfFloats], float]
every_objective = pytest.mark.parametrize("objective", [sft, redi, dpo, simpo])
every_pairwise = pytest.mark.parametrize("objective", [redi, dpo, simpo])


def random_pairs(n: int, dtype: torch.dtype, *, longest: int = 500) -> Pairs:
    """Lengths up to `longest` and about −0.7 nats per token; the policy is within 2 nats of its reference."""
    generator = torch.Generator().manual_seed(n)

    def side() -> tuple[SequenceLogps, Tensor]:
        lengths = torch.randint(1, longest + 1, (n,), generator=generator)
        logps = (-lengths * (0.2 + torch.rand(n, generator=generator, dtype=torch.float64))).to(dtype)
        reference = logps + (4.0 * torch.rand(n, generator=generator) - 2.0).to(dtype)
        return SequenceLogps(logps.requires_grad_(), lengths), reference.detach()

    (chosen, reference_chosen), (rejected, reference_rejected) = side(), side()
    return Pairs(chosen, rejected, reference_chosen, reference_rejected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [0, 1, 64])
@pytest.mark.parametrize(
    ("objective", "twin"),
    [(sft, twin_sft), (redi, twin_redi), (dpo, twin_dpo), (simpo, twin_simpo)],
    ids=["sft", "redi", "dpo", "simpo"],
)
def test_matches_its_fp64_twin(objective: Objective, twin: Twin, n: int, dtype: torch.dtype) -> None:
    pairs = random_pairs(n, dtype)
    columns = (
        pairs.chosen.logps,
        pairs.rejected.logps,
        pairs.reference_chosen,
        pairs.reference_rejected,
        pairs.chosen.lengths,
        pairs.rejected.lengths,
    )
    expected = [twin(PairOfFloats(*row)) for row in zip(*(column.tolist() for column in columns), strict=True)]
    losses = objective(pairs)
    assert losses.dtype == dtype
    # A loss near 0 is a difference of terms near 1, whose own rounding it keeps: hence the absolute part in fp32.
    absolute = 1e-6 if dtype == torch.float32 else 1e-14
    torch.testing.assert_close(losses.double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=absolute)


@every_objective
def test_gradcheck(objective: Objective) -> None:
    pairs = random_pairs(3, torch.float64, longest=20)

    def losses(chosen: Tensor, rejected: Tensor) -> Tensor:
        return objective(
            pairs._replace(chosen=pairs.chosen._replace(logps=chosen), rejected=pairs.rejected._replace(logps=rejected))
        )

    assert torch.autograd.gradcheck(losses, (pairs.chosen.logps, pairs.rejected.logps))


VOCABULARY, HIDDEN = 7, 3


def score(states: Tensor, labels: Tensor, head: Tensor) -> SequenceLogps:
    """Score a padded batch: states (n, T, H) predict labels (n, T), where IGNORE_INDEX marks prompt and padding."""
    is_completion = labels != IGNORE_INDEX
    logps = token_logps(states[is_completion], Head(head, chunk_size=4), labels[is_completion]).logps
    sequence_index = is_completion.nonzero()[:, 0]
    return SequenceLogps(sum_by_sequence(logps, sequence_index, len(labels)), is_completion.sum(-1))


def widen(states: Tensor, labels: Tensor, *, left: int, right: int) -> tuple[Tensor, Tensor]:
    """Add `left` prompt and `right` padding positions whose hidden states are junk."""
    n = len(labels)
    junk = (torch.full((n, width, HIDDEN), 1e4, dtype=states.dtype) for width in (left, right))
    ignored = (torch.full((n, width), IGNORE_INDEX) for width in (left, right))
    prompt_states, padding_states = junk
    prompt_labels, padding_labels = ignored
    return torch.cat([prompt_states, states, padding_states], 1), torch.cat([prompt_labels, labels, padding_labels], 1)


@every_objective
@pytest.mark.parametrize(("left", "right"), [(0, 5), (4, 0), (3, 6)], ids=["padding", "prompt", "both"])
def test_padding_and_prompt_tokens_change_nothing(objective: Objective, left: int, right: int) -> None:
    generator = torch.Generator().manual_seed(7)
    head = torch.randn(VOCABULARY, HIDDEN, generator=generator, dtype=torch.float64)
    labels = torch.randint(VOCABULARY, (2, 3, 6), generator=generator)  # chosen and rejected, 3 pairs, 6 positions
    labels[0, 0, :2] = IGNORE_INDEX
    labels[1, 2, 3:] = IGNORE_INDEX
    states = torch.randn(2, 3, 6, HIDDEN, generator=generator, dtype=torch.float64, requires_grad=True)
    reference = torch.full((3,), -4.0, dtype=torch.float64)

    def loss_and_gradient(left: int, right: int) -> tuple[Tensor, Tensor]:
        chosen, rejected = (score(*widen(states[s], labels[s], left=left, right=right), head) for s in (0, 1))
        losses = objective(Pairs(chosen, rejected, reference, reference))
        return losses, torch.autograd.grad(losses.sum(), states)[0]

    for widened, tight in zip(loss_and_gradient(left, right), loss_and_gradient(0, 0), strict=True):
        torch.testing.assert_close(widened, tight, rtol=1e-12, atol=1e-14)


@every_objective
@pytest.mark.parametrize(("chosen", "rejected"), [(-1e6, -1e-6), (-1e-6, -1e6), (-1e6, -1e6), (0.0, 0.0)])
def test_extreme_logps_give_finite_losses_and_gradients(objective: Objective, chosen: float, rejected: float) -> None:
    lengths = torch.tensor([1])
    inputs = (torch.tensor([chosen], requires_grad=True), torch.tensor([rejected], requires_grad=True))
    pairs = Pairs(SequenceLogps(inputs[0], lengths), SequenceLogps(inputs[1], lengths), torch.zeros(1), torch.zeros(1))
    losses = objective(pairs)
    gradients = torch.autograd.grad(losses.sum(), inputs, allow_unused=True)
    assert losses.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients if gradient is not None)


@every_pairwise
def test_never_pushes_chosen_down_or_rejected_up(objective: Objective) -> None:
    pairs = random_pairs(64, torch.float64)
    inputs = (pairs.chosen.logps, pairs.rejected.logps)
    chosen_gradient, rejected_gradient = torch.autograd.grad(objective(pairs).sum(), inputs)
    assert (chosen_gradient < 0).all()
    assert (rejected_gradient > 0).all()


@every_pairwise
def test_pairs_do_not_see_each_other(objective: Objective) -> None:
    pairs = random_pairs(5, torch.float64)
    second = Pairs(
        SequenceLogps(pairs.chosen.logps[1:2], pairs.chosen.lengths[1:2]),
        SequenceLogps(pairs.rejected.logps[1:2], pairs.rejected.lengths[1:2]),
        reference_chosen=pairs.reference_chosen[1:2],
        reference_rejected=pairs.reference_rejected[1:2],
    )
    torch.testing.assert_close(objective(second), objective(pairs)[1:2], rtol=0.0, atol=0.0)


@every_objective
def test_refuses_logps_and_lengths_of_different_shapes(objective: Objective) -> None:
    pairs = random_pairs(3, torch.float64)
    bad = pairs._replace(chosen=SequenceLogps(pairs.chosen.logps, torch.ones(2)))
    with pytest.raises(ValueError, match=r"\(3,\), \(2,\)"):
        objective(bad)


@every_objective
def test_refuses_a_completion_without_tokens(objective: Objective) -> None:
    pairs = random_pairs(3, torch.float64)
    bad = pairs._replace(chosen=SequenceLogps(pairs.chosen.logps, torch.tensor([4, 0, 2])))
    with pytest.raises(ValueError, match="sequence 1 has 0 completion tokens"):
        objective(bad)


@every_pairwise
def test_refuses_sides_of_different_size(objective: Objective) -> None:
    fewer = random_pairs(2, torch.float64)
    bad = random_pairs(3, torch.float64)._replace(rejected=fewer.rejected, reference_rejected=fewer.reference_rejected)
    with pytest.raises(ValueError, match="3 chosen and 2 rejected"):
        objective(bad)
