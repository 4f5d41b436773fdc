"""Packing keeps everything once and under the budget, and a batch lines predictors up with what they predict."""

from __future__ import annotations

import dataclasses
import random
from array import array
from functools import partial
from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from redi_lab.data.packing import (
    MicroBatch,
    Reference,
    make_batch,
    pack_into_grids,
    pack_into_rows,
    share_out,
    step_cost,
)
from redi_lab.data.tokenization import TokenizedSequence

A = TokenizedSequence("a", (10, 11, 12, 13), 2)
B = TokenizedSequence("b", (20, 21, 22), 1)
C = TokenizedSequence("c", (30, 31), 1)
D = TokenizedSequence("d", (40, 41, 42, 43, 44), 3)

pair_lengths = st.lists(st.tuples(st.integers(2, 20), st.integers(2, 20)), min_size=1, max_size=12)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 50), max_size=60), spare=st.integers(0, 60))
def test_packing_keeps_every_item_once_and_no_row_over_budget(lengths: list[int], spare: int) -> None:
    budget = max(lengths, default=1) + spare
    rows = pack_into_rows(lengths, budget)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in row) for row in rows]
    assert all(row == sorted(row) for row in rows)
    assert all(0 < load <= budget for load in loads)
    # No two rows fit into one: otherwise the later would not have been opened.
    assert sum(sorted(loads)[:2]) > budget or len(loads) < 2


def test_packing_by_hand() -> None:
    """Longest first into 10: 7 opens a row, 5 another; 4 joins 5; 3 joins 7; 1 joins the second."""
    assert pack_into_rows([3, 7, 4, 1, 5], 10) == [[0, 1], [2, 3, 4]]
    assert pack_into_rows([], 10) == []


def test_an_item_over_the_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="item 1 has 11 tokens, the budget is 10"):
        pack_into_rows([3, 11], 10)


def test_grids_by_hand() -> None:
    """Longest first into 20 cells: 9 and 8 make 2 × 9; 5, 4 and 3 make 3 × 5, and one more still fits."""
    assert pack_into_grids([4, 9, 3, 8, 5], 1, 20) == [[1, 3], [4, 0, 2]]
    assert pack_into_grids([4, 9, 3, 8, 5, 2], 1, 20) == [[1, 3], [4, 0, 2, 5]]
    assert pack_into_grids([4, 9, 5], 2, 20) == [[1], [2, 0]]  # pairs: 2 × 9, then 4 × 5
    assert pack_into_grids([], 1, 20) == []
    with pytest.raises(ValueError, match="item 1 needs 22 cells, the budget is 20"):
        pack_into_grids([4, 11], 2, 20)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(lengths=st.lists(st.integers(1, 50), max_size=60), spare=st.integers(0, 60), width=st.sampled_from([1, 2]))
def test_grids_keep_every_item_once_and_none_over_budget(lengths: list[int], spare: int, width: int) -> None:
    budget = width * max(lengths, default=1) + spare
    grids = pack_into_grids(lengths, width, budget)
    assert sorted(index for grid in grids for index in grid) == list(range(len(lengths)))
    assert all(width * len(grid) * max(lengths[i] for i in grid) <= budget for grid in grids)


def test_padding_and_fill_of_a_batch() -> None:
    """Lengths 4, 3, 2, 5: a row of 14 of 20; padded, grids 2 × 5 (of 5 and 4) and 2 × 3 (of 3 and 2)."""
    examples = [(A,), (B,), (C,), (D,)]
    packed = make_batch(examples, token_budget=20, split_examples=True)
    assert (packed.padding_share, packed.row_fill) == (0.0, 14 / 20)
    padded = make_batch(examples, token_budget=10, split_examples=True, is_padded=True)
    assert sorted(micro.segment_lengths for micro in padded.micro_batches) == [(3, 2), (5, 4)]
    assert (padded.padding_share, padded.row_fill) == (1 - 14 / 16, 14 / 20)
    nothing = make_batch([], token_budget=10, split_examples=True)
    assert (nothing.padding_share, nothing.row_fill) == (0.0, 0.0)


def test_pairs_of_a_padded_batch_stay_together() -> None:
    batch = make_batch([(A, B), (C, D)], token_budget=10, split_examples=False, is_padded=True)
    assert sorted(micro.sequences.tolist() for micro in batch.micro_batches) == [[0, 1], [2, 3]]


def test_a_batch_by_hand() -> None:
    """Two sequences end to end: 10 11 | 12 13 and 20 | 21 22, the bar before the completion.

    11 (at 1) predicts 12, 12 (at 2) predicts 13; 20 (at 4) predicts 21, 21 (at 5) predicts 22. In a grid of 2 × 4
    the second sequence begins at slot 4.
    """
    batch = make_batch([(A,), (B,)], token_budget=7, split_examples=True)
    (micro,) = batch.micro_batches
    assert micro.input_ids.tolist() == [[10, 11, 12, 13, 20, 21, 22]]
    assert micro.position_ids.tolist() == [[0, 1, 2, 3, 0, 1, 2]]
    assert micro.boundaries.tolist() == [0, 4, 7]
    assert micro.boundaries.dtype == torch.int32
    assert micro.segment_lengths == (4, 3)
    assert micro.dense_slots.tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert micro.predictors.tolist() == [1, 2, 4, 5]
    assert micro.targets.tolist() == [12, 13, 21, 22]
    assert micro.sequence_index.tolist() == [0, 0, 1, 1]
    assert micro.sequences.tolist() == [0, 1]
    assert (batch.num_examples, batch.num_completion_tokens, batch.num_tokens) == (2, 4, 7)
    assert (batch.lengths.tolist(), batch.ids, batch.reference_logps) == ([2.0, 2.0], ["a", "b"], None)


def test_slots_of_a_grid_skip_the_padding() -> None:
    """Row 2 3 5 long: the grid is 3 × 5, its rows begin at 0, 5 and 10."""
    (micro,) = make_batch([(C,), (B,), (D,)], token_budget=10, split_examples=True).micro_batches
    assert micro.segment_lengths == (2, 3, 5)
    assert micro.dense_slots.tolist() == [0, 1, 5, 6, 7, 10, 11, 12, 13, 14]


def owners(micro: MicroBatch) -> list[int]:
    return micro.sequences.tolist()


def test_pairs_stay_together_unless_they_may_be_split() -> None:
    """9 tokens hold the pair (4, 3) or (2, 5), never both; split, longest first, they become (5, 4) and (3, 2)."""
    pairs = [(A, B), (C, D)]
    together = make_batch(pairs, token_budget=9, split_examples=False)
    assert sorted(map(owners, together.micro_batches)) == [[0, 1], [2, 3]]
    split = make_batch(pairs, token_budget=9, split_examples=True)
    assert sorted(map(owners, split.micro_batches)) == [[0, 3], [1, 2]]
    for batch in (together, split):
        assert batch.ids == ["a", "b", "c", "d"]  # 2i chosen, 2i + 1 rejected
        assert batch.lengths.tolist() == [2.0, 2.0, 1.0, 2.0]
        assert (batch.num_examples, batch.num_completion_tokens, batch.num_tokens) == (2, 7, 14)
    with pytest.raises(ValueError, match="item 0 has 7 tokens, the budget is 6"):
        make_batch(pairs, token_budget=6, split_examples=False)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(lengths=pair_lengths, split=st.booleans(), spare=st.integers(0, 30), prompt=st.integers(1, 19))
def test_every_completion_token_is_predicted_once_by_the_token_before(
    lengths: list[tuple[int, int]], split: bool, spare: int, prompt: int
) -> None:
    """Token t of sequence s is 100 s + t, so a prediction must be its predictor plus one."""
    pairs = [
        tuple(
            TokenizedSequence(f"{i}", tuple(range(100 * (2 * i + k), 100 * (2 * i + k) + n)), min(prompt, n - 1))
            for k, n in enumerate(pair)
        )
        for i, pair in enumerate(lengths)
    ]
    budget = max(max(pair) if split else sum(pair) for pair in lengths) + spare
    batch = make_batch(pairs, token_budget=budget, split_examples=split)
    seen: list[int] = []
    for micro in batch.micro_batches:
        row = micro.input_ids[0]
        assert len(row) <= budget
        assert (row[micro.predictors] + 1).tolist() == micro.targets.tolist()
        assert (micro.targets // 100).tolist() == micro.sequence_index.tolist()
        assert (row % 100).tolist() == micro.position_ids[0].tolist()
        seen += micro.targets.tolist()
    expected = [token for pair in pairs for s in pair for token in s.input_ids[s.prompt_length :]]
    assert sorted(seen) == expected
    assert batch.lengths.tolist() == [float(s.completion_length) for pair in pairs for s in pair]


def test_a_share_knows_the_whole_batch() -> None:
    """Each rank has half of the sequences, the sides of a pair apart, and the numbers of all of them."""
    pairs = [(A, B), (C, D), (A, C)]
    reference = [Reference(-1.0 * number) for number in range(6)]
    first, second = (
        make_batch(pairs, token_budget=9, split_examples=True, reference=reference, rank=rank, world_size=2)
        for rank in (0, 1)
    )
    owned = [sorted(i for micro in batch.micro_batches for i in micro.sequences.tolist()) for batch in (first, second)]
    assert sorted(owned[0] + owned[1]) == [0, 1, 2, 3, 4, 5]
    assert any(side ^ 1 not in owned[0] for side in owned[0])
    for batch in (first, second):
        assert (batch.num_examples, batch.num_rejected) == (3, 0)
        assert batch.num_tokens == sum(len(s.input_ids) for pair in pairs for s in pair)
        assert batch.num_completion_tokens == batch.total_length == batch.lengths.sum()
        assert batch.reference_logps is not None
        assert batch.reference_logps.tolist() == [scores.logps for scores in reference]


def test_the_dearest_go_first_to_whoever_has_least() -> None:
    """7 | 5 | 4, then 4 joins 4, 3 joins 5, 2 joins 7."""
    assert share_out([4.0, 7.0, 2.0, 5.0, 3.0, 4.0], 3) == [[1, 2], [3, 4], [0, 5]]
    assert share_out([1.0], 2) == [[0], []]
    assert share_out([5.0, 1.0, 3.0], 1) == [[0, 1, 2]]


def test_attention_grows_with_the_square() -> None:
    assert step_cost(36_000) == 2 * 36_000
    assert step_cost(2000) > 2 * step_cost(1000)


def test_weights_and_token_log_probs_lie_at_their_tokens() -> None:
    """In the order of the row, 1 where a sequence has no weights; |y| is the sum of magnitudes."""
    weighted = dataclasses.replace(A, token_weights=(0.5, -2.0), weight=3.0, pass_rate=0.25, is_chosen=False)
    scores = [Reference(-9.0, torch.tensor([-1.0, -2.0])), Reference(-8.0, torch.tensor([-3.0, -4.0]))]
    batch = make_batch([(weighted,), (B,)], token_budget=7, split_examples=True, reference=scores)
    (micro,) = batch.micro_batches
    assert micro.token_weights is not None
    assert micro.reference_logps is not None
    assert (batch.lengths.tolist(), batch.num_tokens_of.tolist()) == ([2.5, 2.0], [2.0, 2.0])
    assert (batch.weights.tolist(), batch.pass_rates[0].item()) == ([3.0, 1.0], 0.25)
    assert batch.pass_rates[1].isnan()
    assert (batch.total_length, batch.num_rejected_tokens) == (4.5, 2)
    for sequence, weights, logps in ((0, [0.5, -2.0], [-1.0, -2.0]), (1, [1.0, 1.0], [-3.0, -4.0])):
        here = micro.sequence_index == sequence
        assert (micro.token_weights[here].tolist(), micro.reference_logps[here].tolist()) == (weights, logps)


def test_all_ranks_have_as_many_micro_batches() -> None:
    """Of one token without a completion, where there are no sequences left."""
    pairs = [(A, B), (C, D), (A, C)]
    first, second, third = (
        make_batch(pairs[:2], token_budget=9, split_examples=False, rank=rank, world_size=3) for rank in range(3)
    )
    assert [len(batch.micro_batches) for batch in (first, second, third)] == [1, 1, 1]
    (idle,) = third.micro_batches
    assert (idle.segment_lengths, idle.input_ids.shape, idle.targets.shape) == ((1,), (1, 1), (0,))
    assert idle.sequences.tolist() == []
    assert (third.lengths.tolist(), third.num_examples) == (first.lengths.tolist(), 2)
    assert third.row_fill == first.row_fill == second.row_fill


def test_moving_to_a_device_moves_every_tensor() -> None:
    weighted = dataclasses.replace(A, token_weights=(0.5, 2.0))
    scores = [Reference(-3.0, torch.tensor([-1.0, -2.0]))]
    (micro,) = make_batch([(weighted,)], token_budget=9, split_examples=True, reference=scores).micro_batches
    moved = micro.to(torch.device("meta"))
    for field in dataclasses.fields(moved):
        value = getattr(moved, field.name)
        assert value == vars(micro)[field.name] if isinstance(value, tuple) else value.is_meta


def test_a_row_equals_one_that_is_laid_token_by_token() -> None:
    """Every tensor to the bit, for prompts of all lengths and ids in each kind of sequence that there is."""
    draw = random.Random(0)
    for number in range(50):
        kinds = (list, tuple, partial(array, "i"))
        examples = [
            (TokenizedSequence(str(i), kinds[i % 3](draw.choices(range(50), k=n)), draw.randint(1, n - 1)),)
            for i, n in enumerate(draw.choices(range(2, 30), k=draw.randint(1, 9)))
        ]
        for micro in make_batch(
            examples, token_budget=60, split_examples=True, is_padded=number % 2 == 1
        ).micro_batches:
            here = [examples[i][0] for i in micro.sequences.tolist()]
            longest = max(len(s.input_ids) for s in here)
            row: dict[str, list[int]] = {name: [] for name in ("ids", "at", "slots", "predictors", "targets", "owners")}
            for place, (index, s) in enumerate(zip(micro.sequences.tolist(), here, strict=True)):
                for position, token in enumerate(s.input_ids):
                    if position >= s.prompt_length:
                        row["predictors"].append(len(row["ids"]) - 1)
                        row["targets"].append(token)
                        row["owners"].append(index)
                    row["ids"].append(token)
                    row["at"].append(position)
                    row["slots"].append(place * longest + position)
            found = (micro.input_ids[0], micro.position_ids[0], micro.dense_slots, micro.predictors, micro.targets)
            for tensor, expected in zip((*found, micro.sequence_index), row.values(), strict=True):
                assert tensor.dtype == torch.int64
                assert tensor.tolist() == expected
            assert micro.segment_lengths == tuple(len(s.input_ids) for s in here)
            assert micro.completion_lengths == tuple(s.completion_length for s in here)
            assert micro.boundaries.tolist() == [0, *accumulate(micro.segment_lengths)]
            assert micro.boundaries.dtype == torch.int32
