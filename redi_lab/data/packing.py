"""Batches without padding: sequences are laid end to end under a token budget, each attending only to itself.

Models that cannot be packed exactly are fed (n × longest) grids with padding instead. Their micro-batches are described
in the same way, but filled so that the grid, not the row, stays within the budget.

A `Batch` is one *global* batch of the paper (128 sequences, 32 pairs): one optimizer step. It is cut into
micro-batches by tokens, not by sequences, and these are shared among ranks by cost. Every rank knows lengths, sides and
weights of the whole batch, so the loss cannot depend on the cut. All ranks have as many micro-batches, for where the
weights are sharded, each pass is an exchange; some may be idle.

Shape legend: T tokens of a micro-batch, n its sequences, N its completion tokens, S sequences of the global batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, final

import numpy as np
import torch
from torch import Tensor

from redi_lab.data.tokenization import TokenizedSequence

Task = Literal["demonstrations", "pairs", "unpaired"]
"""What an objective trains on: correct completions, pairs of a correct and an incorrect one, or both without pairs."""


class Reference(NamedTuple):
    """What a reference model makes of one completion."""

    logps: float
    """log π_ref(y|x) in nats, weighted as the sequence's tokens are."""
    token_logps: Tensor | None = None
    """(|y|,) log π_ref of each completion token, where they were kept."""


@final
@dataclass
class MicroBatch:
    """Sequences of one forward pass, end to end in one row."""

    input_ids: Tensor  # (1, T)
    position_ids: Tensor  # (1, T), starting at 0 in every sequence
    boundaries: Tensor  # (n + 1,) int32, where sequences begin and end
    segment_lengths: tuple[int, ...]  # n
    dense_slots: Tensor  # (T,) where each token lies in an (n × longest) grid
    predictors: Tensor  # (N,) positions in the row whose hidden state predicts a completion token
    targets: Tensor  # (N,) the completion tokens
    sequence_index: Tensor  # (N,) to which sequence of the global batch each belongs
    sequences: Tensor  # (n,) the sequences of the global batch that are here
    completion_lengths: tuple[int, ...]  # n
    token_weights: Tensor | None = None  # (N,) factors on the log-probs; None: 1
    reference_logps: Tensor | None = None  # (N,) log π_ref of the targets, where the objective needs them

    def to(self, device: torch.device) -> MicroBatch:
        """A copy with its tensors on `device`."""
        moved: dict[str, Any] = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in vars(self).items()}
        return MicroBatch(**moved)


@final
@dataclass
class Batch:
    """One global batch, the same on every rank except for its micro-batches.

    In a batch of pairs, sequence 2i is the chosen and 2i + 1 the rejected completion of pair i.
    """

    micro_batches: list[MicroBatch]  # this rank's share, then idle ones up to the largest number of any rank
    num_tokens_of: Tensor  # (S,) completion tokens
    lengths: Tensor  # (S,) |y|: the completion tokens or, where they have weights, the sum of the weights' magnitudes
    is_chosen: Tensor  # (S,) bool, False for rejected completions
    weights: Tensor  # (S,) factors on the terms of the loss
    pass_rates: Tensor  # (S,) share of right traces of the problem, NaN where it is not known
    reference_logps: Tensor | None  # (S,) log π_ref(y|x), where the objective needs them
    num_examples: int  # sequences or, where they come in pairs, pairs
    num_rejected: int  # rejected sequences
    num_completion_tokens: int
    num_rejected_tokens: int  # of which rejected ones
    total_length: float  # Σ|y|
    num_tokens: int  # of prompts and completions
    num_positions: int  # of all ranks' forward passes: the tokens, and padding where they are laid out in grids
    capacity: int  # positions that these forward passes could have had under the token budget
    ids: list[str]  # of the sequences
    mismatched: Batch | None = None  # the prompts with completions of other problems, where the objective needs them

    @property
    def padding_share(self) -> float:
        """Share of the positions that are padding, in [0, 1)."""
        return 1.0 - self.num_tokens / self.num_positions if self.num_positions else 0.0

    @property
    def row_fill(self) -> float:
        """Share of the room under the token budget that real tokens fill, in [0, 1]; a last row is rarely full."""
        return self.num_tokens / self.capacity if self.capacity else 0.0


def pack_into_rows(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Bins of indices whose lengths add up to at most `budget`, by first-fit decreasing; input order within a bin.

    Raises:
        ValueError: an item is longer than the budget.
    """
    rows: list[list[int]] = []
    free: list[int] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if lengths[index] > budget:
            raise ValueError(f"item {index} has {lengths[index]} tokens, the budget is {budget}")
        for row, room in enumerate(free):
            if lengths[index] <= room:
                rows[row].append(index)
                free[row] -= lengths[index]
                break
        else:
            rows.append([index])
            free.append(budget - lengths[index])
    return [sorted(row) for row in rows]


def pack_into_grids(lengths: Sequence[int], width: int, budget: int) -> list[list[int]]:
    """Bins of indices, of similar lengths, whose (width · n × longest) grids have at most `budget` cells.

    Args:
        lengths: of the longest sequence of each item.
        width: sequences of each item.
        budget: most cells.

    Raises:
        ValueError: an item alone needs more.
    """
    grids: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if width * lengths[index] > budget:
            raise ValueError(f"item {index} needs {width * lengths[index]} cells, the budget is {budget}")
        if not grids or width * (len(grids[-1]) + 1) * lengths[grids[-1][0]] > budget:
            grids.append([])
        grids[-1].append(index)
    return grids


def step_cost(length: int) -> float:
    """Cost of a sequence in a training step, in units of one token that attends to nothing.

    A token costs 6 operations a parameter, and 6 · layers · width for each token of its sequence: in the paper's model
    (1.54 billion, 28 layers, 1,536 wide) as many at 36,000 tokens. Larger models weigh attention less.
    """
    return length * (1 + length / 36_000)


def share_out(costs: Sequence[float], num_shares: int) -> list[list[int]]:
    """Indices of the items in each share: the dearest first, each to whoever has least (Graham 1969, LPT)."""
    shares: list[list[int]] = [[] for _ in range(num_shares)]
    loads = [0.0] * num_shares
    for index in sorted(range(len(costs)), key=lambda i: (-costs[i], i)):
        least = loads.index(min(loads))
        shares[least].append(index)
        loads[least] += costs[index]
    return [sorted(share) for share in shares]


def make_batch(
    examples: Sequence[Sequence[TokenizedSequence]],
    *,
    token_budget: int,
    split_examples: bool,
    is_padded: bool = False,
    reference: Sequence[Reference] | None = None,
    rank: int = 0,
    world_size: int = 1,
) -> Batch:
    """Pack examples (a pair of chosen and rejected for preferences, else one sequence each) into a batch.

    Args:
        examples: those of the global batch.
        token_budget: most tokens in one micro-batch; where padded, most cells of its grid.
        split_examples: whether chosen and rejected may lie in different micro-batches, and on different ranks. Losses
            that are linear in token log-probabilities allow it.
        is_padded: whether the model is fed grids rather than rows.
        reference: what the reference model makes of every sequence, in order.
        rank: whose micro-batches to make.
        world_size: how many ranks share the batch.
    """
    sequences = [sequence for example in examples for sequence in example]
    unit = 1 if split_examples or not examples else len(examples[0])
    lengths = [len(sequence.input_ids) for sequence in sequences]
    units = [lengths[at : at + unit] for at in range(0, len(lengths), unit)]
    shares = share_out([sum(map(step_cost, lengths)) for lengths in units], world_size)
    rows = [_pack(units, share, token_budget, is_padded) for share in shares]
    every_row = [[lengths[index] for index in row] for of_rank in rows for row in of_rank]
    num_idle = max(map(len, rows)) - len(rows[rank])
    return Batch(
        micro_batches=[*(_micro_batch(sequences, reference, row) for row in rows[rank]), *[_idle()] * num_idle],
        num_tokens_of=_column(sequence.completion_length for sequence in sequences),
        lengths=_column(sequence.weighted_length for sequence in sequences),
        is_chosen=torch.tensor([sequence.is_chosen for sequence in sequences], dtype=torch.bool),
        weights=_column(sequence.weight for sequence in sequences),
        pass_rates=_column(math.nan if s.pass_rate is None else s.pass_rate for s in sequences),
        reference_logps=None if reference is None else _column(scores.logps for scores in reference),
        num_examples=len(examples),
        num_rejected=sum(not sequence.is_chosen for sequence in sequences),
        num_completion_tokens=sum(sequence.completion_length for sequence in sequences),
        num_rejected_tokens=sum(s.completion_length for s in sequences if not s.is_chosen),
        total_length=sum(sequence.weighted_length for sequence in sequences),
        num_tokens=sum(lengths),
        num_positions=sum(len(row) * max(row) if is_padded else sum(row) for row in every_row),
        capacity=len(every_row) * token_budget,
        ids=[sequence.id for sequence in sequences],
    )


def _pack(units: Sequence[Sequence[int]], share: Sequence[int], token_budget: int, is_padded: bool) -> list[list[int]]:
    """Indices of the sequences in each row of a share, from the lengths of each unit's sequences."""
    unit = len(units[0]) if units else 1
    if is_padded:
        rows = pack_into_grids([max(units[index]) for index in share], unit, token_budget)
    else:
        rows = pack_into_rows([sum(units[index]) for index in share], token_budget)
    return [[share[place] * unit + offset for place in row for offset in range(unit)] for row in rows]


def _column(values: Iterable[float]) -> Tensor:
    return torch.tensor(list(values), dtype=torch.float32)


def _micro_batch(
    sequences: Sequence[TokenizedSequence], reference: Sequence[Reference] | None, chosen: Sequence[int]
) -> MicroBatch:
    """Lay the named sequences end to end."""
    here = [sequences[index] for index in chosen]
    ids = np.concatenate([np.asarray(sequence.input_ids, dtype=np.int64) for sequence in here])
    lengths, completions = (
        np.array(x) for x in zip(*((len(s.input_ids), s.completion_length) for s in here), strict=True)
    )
    ends, longest = lengths.cumsum(), lengths.max()
    positions = np.arange(len(ids)) - (ends - lengths).repeat(lengths)
    # The hidden state at t predicts token t + 1: the last prompt token predicts the first completion token.
    predictors = np.arange(completions.sum()) + (ends - 1 - completions.cumsum()).repeat(completions)
    return MicroBatch(
        input_ids=torch.from_numpy(ids)[None],
        position_ids=torch.from_numpy(positions)[None],
        boundaries=torch.tensor([0, *ends.tolist()], dtype=torch.int32),
        segment_lengths=tuple(lengths.tolist()),
        dense_slots=torch.from_numpy((np.arange(len(here)) * longest).repeat(lengths) + positions),
        predictors=torch.from_numpy(predictors),
        targets=torch.from_numpy(ids[predictors + 1]),
        sequence_index=torch.from_numpy(np.array(chosen).repeat(completions)),
        sequences=torch.tensor(chosen),
        completion_lengths=tuple(completions.tolist()),
        token_weights=_token_weights(here),
        reference_logps=None if reference is None else _token_logps([reference[index] for index in chosen]),
    )


def _idle() -> MicroBatch:
    """One token and no completion: a pass that adds zeros to the loss and to every gradient."""
    token, none = torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    return MicroBatch(
        input_ids=token[None],
        position_ids=token[None],
        boundaries=torch.tensor([0, 1], dtype=torch.int32),
        segment_lengths=(1,),
        dense_slots=token,
        predictors=none,
        targets=none,
        sequence_index=none,
        sequences=none,
        completion_lengths=(),
        reference_logps=torch.zeros(0),
    )


def _token_weights(sequences: Sequence[TokenizedSequence]) -> Tensor | None:
    """(N,) of their completion tokens; None where none of them has any."""
    if all(sequence.token_weights is None for sequence in sequences):
        return None
    return torch.cat(
        [
            torch.ones(s.completion_length) if s.token_weights is None else torch.tensor(s.token_weights)
            for s in sequences
        ]
    )


def _token_logps(scores: Sequence[Reference]) -> Tensor | None:
    """(N,) of their completion tokens, where these were kept."""
    kept = [one.token_logps for one in scores if one.token_logps is not None]
    return torch.cat(kept) if kept else None
