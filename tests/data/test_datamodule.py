"""Global batches: their order, the shares of ranks, what is kept out and what is dropped."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from itertools import chain
from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader

from redi_lab.data.arithmetic import ArithmeticSource, build_tokenizer
from redi_lab.data.batches import BatchSampler
from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.packing import Batch, Reference
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.data.traces import Demonstration, Negative, Pair, SelectionCounts, TraceCorpus
from redi_lab.errors import UserError


@pytest.fixture(scope="module")
def corpus() -> TraceCorpus:
    return ArithmeticSource(num_problems=150, num_heldout=5, seed=0).load()


@pytest.fixture(scope="module")
def encoder() -> TraceEncoder:
    return TraceEncoder(build_tokenizer())


def make(corpus: TraceCorpus, encoder: TraceEncoder, **changes: Any) -> TraceDataModule:
    options: dict[str, Any] = {
        "task": "pairs",
        "batch_size": 8,
        "micro_batch_tokens": 256,
        "split_examples": True,
        "seed": 0,
    }
    return TraceDataModule.of_corpus(corpus, encoder, **(options | changes))


def train_batches(data: TraceDataModule, epoch: int = 0) -> list[Batch]:
    loader = data.train_dataloader()
    loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
    return list(loader)


def contents(batches: Iterable[Batch]) -> list[Any]:
    """Everything in the batches as plain values, to be compared."""
    return [
        (
            batch.ids,
            batch.lengths.tolist(),
            batch.num_examples,
            batch.num_completion_tokens,
            [
                {k: v.tolist() if isinstance(v, torch.Tensor) else v for k, v in vars(m).items()}
                for m in batch.micro_batches
            ],
        )
        for batch in batches
    ]


def ids_of(batches: Iterable[Batch]) -> list[list[str]]:
    return [batch.ids for batch in batches]


def test_the_order_is_of_seed_and_epoch_alone(corpus: TraceCorpus, encoder: TraceEncoder) -> None:
    data = make(corpus, encoder)
    first, second = ids_of(train_batches(data)), ids_of(train_batches(data, epoch=1))
    torch.manual_seed(77)  # the order must not read the global generator
    assert ids_of(train_batches(make(corpus, encoder))) == first
    assert ids_of(train_batches(data, epoch=1)) == second
    assert ids_of(train_batches(data, epoch=0)) == first
    assert first != second
    assert ids_of(train_batches(make(corpus, encoder, seed=1))) != first
    # One budget or another only moves the cuts.
    assert ids_of(train_batches(make(corpus, encoder, micro_batch_tokens=999))) == first


@pytest.mark.parametrize("task", ["demonstrations", "pairs"])
def test_every_example_comes_once_an_epoch(corpus: TraceCorpus, encoder: TraceEncoder, task: str) -> None:
    rows: tuple[Demonstration | Pair, ...] = corpus.demonstrations if task == "demonstrations" else corpus.pairs
    width = 1 if task == "demonstrations" else 2
    data = make(corpus, encoder, task=task)
    batches = train_batches(data)
    assert len(batches) == len(data.train_dataloader()) == -(-len(rows) // 8)
    assert [batch.num_examples for batch in batches[:-1]] == [8] * (len(batches) - 1)
    assert batches[-1].num_examples == len(rows) - 8 * (len(batches) - 1)
    assert sorted(name for batch in batches for name in batch.ids) == sorted(
        row.id for row in rows for _ in range(width)
    )


def test_chosen_comes_before_rejected(corpus: TraceCorpus, encoder: TraceEncoder) -> None:
    by_id = {pair.id: pair for pair in corpus.pairs}
    for example in make(corpus, encoder).train_examples:
        pair = by_id[example[0].id]
        texts = [encoder.tokenizer.decode(list(s.input_ids[s.prompt_length :])) for s in example]
        assert texts == [f"{pair.chosen}<|endoftext|>", f"{pair.rejected}<|endoftext|>"]


@pytest.mark.parametrize("split_examples", [True, False])
@pytest.mark.parametrize("world_size", [2, 3, 17])
def test_the_shares_of_the_ranks_make_the_whole(
    corpus: TraceCorpus, encoder: TraceEncoder, world_size: int, split_examples: bool
) -> None:
    """17 ranks are more than a batch has sequences: some go without."""
    data = make(corpus, encoder, split_examples=split_examples)
    data.train_set.reference = [[Reference(-1.0 * i), Reference(-2.0 * i)] for i in range(len(data.train_examples))]
    whole = train_batches(data)
    shares = []
    for rank in range(world_size):
        data.train_set.rank, data.train_set.world_size = rank, world_size
        shares.append(train_batches(data))
    for batch, *parts in zip(whole, *shares, strict=True):
        owned = [[index for micro in part.micro_batches for index in micro.sequences.tolist()] for part in parts]
        assert sorted(chain.from_iterable(owned)) == list(range(len(batch.lengths)))
        if not split_examples:
            assert all({index ^ 1 for index in share} == set(share) for share in owned)
        for part in parts:
            for name in ("lengths", "is_chosen", "reference_logps", "weights"):
                assert torch.equal(getattr(part, name), getattr(batch, name))
            for name in ("ids", "num_examples", "num_completion_tokens", "num_tokens"):
                assert getattr(part, name) == getattr(batch, name)
            assert (part.row_fill, part.padding_share) == (parts[0].row_fill, parts[0].padding_share)
    assert any(not part.micro_batches for parts in shares for part in parts) == (world_size == 17)


def test_the_reference_follows_its_examples(corpus: TraceCorpus, encoder: TraceEncoder) -> None:
    data = make(corpus, encoder)
    data.train_set.reference = [[Reference(i), Reference(-i)] for i in range(len(data.train_examples))]
    position = {example[0].id: i for i, example in enumerate(data.train_examples)}
    for batch in train_batches(data):
        assert batch.reference_logps is not None
        assert batch.reference_logps.tolist() == [
            sign * position[name] for name, sign in zip(batch.ids, [1.0, -1.0] * batch.num_examples, strict=True)
        ]


def test_validation_problems_are_those_of_both_stages_and_never_trained_on(
    corpus: TraceCorpus, encoder: TraceEncoder
) -> None:
    stages = [make(corpus, encoder, task=task, num_validation=12) for task in ("demonstrations", "pairs")]
    kept_out = [{example[0].id for example in data.val_examples} for data in stages]
    assert kept_out[0] == kept_out[1]
    assert len(kept_out[0]) == 12
    every_id = [{row.id for row in corpus.demonstrations}, {pair.id for pair in corpus.pairs}]
    for data, ids in zip(stages, every_id, strict=True):
        trained = {name for batch in train_batches(data) for name in batch.ids}
        assert trained == ids - kept_out[0]
        loader = data.val_dataloader()
        assert isinstance(loader, DataLoader)
        seen = [name for batch in loader for name in batch.ids]
        assert set(seen) == kept_out[0]
        assert seen == [s.id for example in data.val_examples for s in example]  # in order, not shuffled
    other = make(corpus, encoder, num_validation=12, seed=1)
    assert {example[0].id for example in other.val_examples} != kept_out[0]
    assert make(corpus, encoder).val_dataloader() == []


def test_limits_drop_and_count_by_name(corpus: TraceCorpus, encoder: TraceEncoder) -> None:
    whole = make(corpus, encoder)
    middle = sorted(max(s.completion_length for s in e) for e in whole.train_examples)[len(whole.train_examples) // 2]
    data = make(corpus, encoder, max_completion_tokens=middle)
    kept = [e for e in whole.train_examples if max(s.completion_length for s in e) <= middle]
    assert [e[0].id for e in data.train_examples] == [e[0].id for e in kept]
    dropped = len(whole.train_examples) - len(kept)
    assert dropped > 0
    assert data.counts() == {
        "train": len(kept),
        "validation": 0,
        "dropped": {f"completion over {middle} tokens": dropped},
        "unused_columns": [],
        "train_completion_tokens": sum(s.completion_length for e in kept for s in e),
    }
    prompts = {e[0].prompt_length for e in whole.train_examples}
    short = make(corpus, encoder, max_prompt_tokens=min(prompts), max_sequence_tokens=1000)
    assert {e[0].prompt_length for e in short.train_examples} == {min(prompts)}
    assert set(short.dropped) == {f"prompt over {min(prompts)} tokens"}
    longest = max(len(s.input_ids) for e in whole.train_examples for s in e)
    assert make(corpus, encoder, max_sequence_tokens=longest).dropped == {}
    assert set(make(corpus, encoder, max_sequence_tokens=longest - 1).dropped) == {
        f"sequence over {longest - 1} tokens"
    }


def test_an_example_over_the_budget_is_refused_by_name(corpus: TraceCorpus, encoder: TraceEncoder) -> None:
    """Chosen and rejected count together where they may not be split."""
    examples = make(corpus, encoder).train_examples
    by_pair = max(examples, key=lambda e: sum(len(s.input_ids) for s in e))
    tokens = sum(len(s.input_ids) for s in by_pair)
    make(corpus, encoder, split_examples=False, micro_batch_tokens=tokens)
    make(corpus, encoder, split_examples=True, micro_batch_tokens=tokens - 1)
    expected = rf"data\.micro_batch_tokens={tokens - 1} is less than the {tokens} tokens of {by_pair[0].id}: raise it"
    with pytest.raises(UserError, match=expected):
        make(corpus, encoder, split_examples=False, micro_batch_tokens=tokens - 1)


def test_nothing_left_to_train_on_is_refused(corpus: TraceCorpus, encoder: TraceEncoder) -> None:
    with pytest.raises(UserError, match=r"no pairs to train on \(\{'prompt over 1 tokens': \d+\} dropped, 0 kept"):
        make(corpus, encoder, max_prompt_tokens=1)
    with pytest.raises(UserError, match=rf"no pairs to train on .* {len(corpus.pairs)} kept for validation"):
        make(corpus, encoder, num_validation=len(corpus.pairs))
    rows = (Demonstration("a", "1 ?", "1"),)
    lone = TraceCorpus("lone.jsonl", rows, (), (), SelectionCounts(1, {}, 1, 0, {"no incorrect generation": 1}, 0))
    with pytest.raises(UserError, match=r"^lone\.jsonl: no pairs to train on .*pairs need a right and a wrong trace"):
        make(lone, encoder)
    assert len(make(lone, encoder, task="demonstrations").train_examples) == 1


def test_sequences_over_the_position_limit_are_refused_by_name(corpus: TraceCorpus, encoder: TraceEncoder) -> None:
    data = make(corpus, encoder)
    longest = max((s for e in data.train_examples for s in e), key=lambda s: len(s.input_ids))
    length = len(longest.input_ids)
    data.check_positions(None, None)
    data.check_positions(length, length)
    for limits in ((length - 1, None), (None, length - 1)):
        with pytest.raises(
            UserError, match=rf"^{longest.id} has {length} tokens.*data\.max_sequence_tokens={length - 1}"
        ):
            data.check_positions(*limits)


def test_the_digest_is_of_the_training_tokens(corpus: TraceCorpus, encoder: TraceEncoder) -> None:
    digest = make(corpus, encoder).digest()
    assert make(corpus, encoder, batch_size=4, seed=5, micro_batch_tokens=500).digest() == digest
    assert make(corpus, encoder, num_validation=3).digest() != digest
    assert make(corpus, TraceEncoder(encoder.tokenizer, "{problem} ")).digest() != digest


def test_progress_reaches_the_end(corpus: TraceCorpus, encoder: TraceEncoder) -> None:
    seen: list[tuple[int, int]] = []
    make(corpus, encoder, on_progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (2 * len(corpus.pairs), 2 * len(corpus.pairs))


@pytest.mark.parametrize("sizes", [(10,), (7, 9)])
def test_a_resumed_epoch_has_the_rest_of_its_batches(sizes: tuple[int, ...]) -> None:
    whole, later = (BatchSampler(sizes, 3, seed=1) for _ in range(2))
    whole.set_epoch(2)
    later.set_epoch(3)
    rest = list(whole)[2:]
    resumed = BatchSampler(sizes, 3, seed=1, resumed_at=(2, 2))
    assert list(resumed) == rest  # also before anybody says which epoch it is
    assert len(resumed) == len(whole)
    resumed.set_epoch(2)
    assert list(resumed) == rest
    resumed.set_epoch(3)
    assert list(resumed) == list(later)


def test_training_can_begin_in_the_middle_of_an_epoch(corpus: TraceCorpus, encoder: TraceEncoder) -> None:
    data = make(corpus, encoder)
    whole = {epoch: ids_of(train_batches(data, epoch)) for epoch in (1, 2)}
    data.start_at(1, 1)
    assert ids_of(train_batches(data, 1)) == whole[1][1:]
    assert ids_of(train_batches(data, 2)) == whole[2]


def test_the_sampler_without_shuffling() -> None:
    sampler = BatchSampler((7,), 3, seed=0, shuffle=False)
    assert list(sampler) == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(sampler) == 3


def test_unpaired_batches_hold_both_sides_in_the_proportion_of_the_data() -> None:
    sampler = BatchSampler((10, 23), batch_size=4, seed=0)
    batches = list(sampler)
    assert len(batches) == len(sampler) == 6
    assert sorted(chain.from_iterable(batches)) == list(range(33))
    assert {sum(i < 10 for i in batch) for batch in batches} == {1, 2}
    assert {sum(i >= 10 for i in batch) for batch in batches} == {3, 4}
    assert list(BatchSampler((10, 23), 4, 0)) == batches
    assert list(BatchSampler((10, 23), 4, 1)) != batches
    sampler.set_epoch(1)
    assert list(sampler) != batches


def test_unpaired_sides_must_fill_every_batch() -> None:
    with pytest.raises(UserError, match=r"2 chosen and 23 rejected .* 6 batches, .* raise it to 12 or more"):
        BatchSampler((2, 23), batch_size=4, seed=0)
    assert len(BatchSampler((2, 23), batch_size=12, seed=0)) == 2
    with pytest.raises(UserError, match=r"2 chosen and 0 rejected completions: unpaired training .* need both"):
        BatchSampler((2, 0), batch_size=4, seed=0)


def test_unpaired_takes_all_demonstrations_and_each_negative_once(corpus: TraceCorpus, encoder: TraceEncoder) -> None:
    again = corpus.pairs[0]
    twice = dataclasses.replace(corpus, pairs=(*corpus.pairs, again))
    data = make(twice, encoder, task="unpaired", batch_size=32)
    sides = [sequence.is_chosen for (sequence,) in data.train_examples]
    assert sides.count(True) == len(corpus.demonstrations)
    assert sides.count(False) == len(corpus.pairs)
    for batch in train_batches(data):
        assert batch.num_rejected == int((~batch.is_chosen).sum()) > 0
        assert batch.num_examples == len(batch.is_chosen)
    one_side = dataclasses.replace(corpus, pairs=())
    with pytest.raises(UserError, match="0 rejected completions"):
        make(one_side, encoder, task="unpaired")


def test_sides_are_part_of_the_digest(corpus: TraceCorpus, encoder: TraceEncoder) -> None:
    text = corpus.pairs[0]
    right = Demonstration("a", text.problem, text.chosen)
    wrong = Negative("a", text.problem, text.chosen)
    other = Demonstration("b", "1+1=", "2"), Negative("b", "1+1=", "3")
    one = dataclasses.replace(corpus, demonstrations=(right, other[0]), unpaired_negatives=(other[1],))
    two = dataclasses.replace(corpus, demonstrations=(other[0],), unpaired_negatives=(wrong, other[1]))
    digests = {make(c, encoder, task="unpaired").digest() for c in (one, two)}
    assert len(digests) == 2
