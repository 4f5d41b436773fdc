"""Which examples make a global batch, and in which order; the packing is in `redi_lab.data.packing`."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from typing import final

import torch
from torch.utils.data import Dataset, Sampler

from redi_lab.data.examples import Example
from redi_lab.data.packing import Batch, Reference, make_batch
from redi_lab.data.tokenization import TokenizedSequence
from redi_lab.errors import UserError


@final
class BatchSampler(Sampler[list[int]]):
    """Indices of the examples of each global batch, every example once an epoch.

    Args:
        sizes: the number of examples or, where unpaired, of chosen and of rejected ones. In unpaired batches both sides
            have the proportion of the data: there are as many as the larger side fills with `batch_size` examples a
            batch, and both are spread evenly over them. With equal numbers a batch is what `batch_size` pairs are.
        batch_size: examples of a batch, the last of which may be smaller; where unpaired, those of the larger side.
        seed: with the epoch it decides the order.
        shuffle: whether the order is random.
        resumed_at: an epoch, and how many of its batches are done; nothing is loaded to skip them.

    Raises:
        UserError: a side is too small to have an example in every batch.
    """

    def __init__(
        self,
        sizes: tuple[int, ...],
        batch_size: int,
        seed: int,
        *,
        shuffle: bool = True,
        resumed_at: tuple[int, int] = (0, 0),
    ) -> None:
        self.sizes = sizes
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self.resumed_at = resumed_at
        self.epoch = resumed_at[0]
        self.num_batches = -(-max(sizes) // batch_size)
        if len(sizes) == 2:
            self._check_sides(*sizes)

    def _check_sides(self, num_chosen: int, num_rejected: int) -> None:
        smaller = min(num_chosen, num_rejected)
        if smaller == 0:
            raise UserError(
                f"{num_chosen} chosen and {num_rejected} rejected completions: unpaired training and its validation"
                " need both; see data.num_validation and the source's account of what it dropped"
            )
        if smaller < self.num_batches:
            raise UserError(
                f"data.batch_size={self.batch_size}: {num_chosen} chosen and {num_rejected} rejected completions make"
                f" {self.num_batches} batches, not all of which would hold both; raise it to"
                f" {-(-max(self.sizes) // smaller)} or more"
            )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's order; Lightning calls this."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.num_batches  # of a whole epoch: when to validate and when it ends is counted by that

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.epoch)
        orders = [
            torch.randperm(size, generator=generator).tolist() if self.shuffle else list(range(size))
            for size in self.sizes
        ]
        epoch, done = self.resumed_at
        for number in range(done if self.epoch == epoch else 0, self.num_batches):
            if len(orders) == 1:
                yield orders[0][number * self.batch_size : (number + 1) * self.batch_size]
            else:
                chosen, rejected = (self._even_part(order, number) for order in orders)
                yield [*chosen, *(self.sizes[0] + index for index in rejected)]

    def _even_part(self, order: list[int], number: int) -> list[int]:
        start, end = (len(order) * n // self.num_batches for n in (number, number + 1))
        return order[start:end]


@final
class BatchDataset(Dataset[Batch]):
    """Packs the examples whose indices it is asked for, or what of them is its rank's share."""

    def __init__(
        self, examples: list[Example], token_budget: int, *, split_examples: bool, is_padded: bool = False
    ) -> None:
        self.examples = examples
        self.token_budget = token_budget
        self.split_examples = split_examples
        self.is_padded = is_padded
        self.reference: Sequence[Sequence[Reference]] | None = None
        self.mismatched: BatchDataset | None = None
        self.rank, self.world_size = 0, 1

    def __getitem__(self, indices: list[int]) -> Batch:
        reference = self.reference
        batch = make_batch(
            [self.examples[i] for i in indices],
            token_budget=self.token_budget,
            split_examples=self.split_examples,
            is_padded=self.is_padded,
            reference=None if reference is None else [scores for i in indices for scores in reference[i]],
            rank=self.rank,
            world_size=self.world_size,
        )
        batch.mismatched = None if self.mismatched is None else self.mismatched[indices]
        return batch

    def mismatch(self) -> None:
        """Give each prompt the completion of the next problem in the data, beside its own.

        Raises:
            UserError: all are of one problem, or one is longer than a micro-batch.
        """
        sequences = [sequence for (sequence,) in self.examples]
        if len({s.id for s in sequences}) < 2:
            raise UserError(f"{sequences[0].id} is the only problem; this objective sets each against another one")
        others: list[Example] = []
        for place, own in enumerate(sequences):
            further = (sequences[(place + step) % len(sequences)] for step in range(1, len(sequences)))
            other = next(s for s in further if s.id != own.id)
            ids = [*own.input_ids[: own.prompt_length], *other.input_ids[other.prompt_length :]]
            others.append((TokenizedSequence(own.id, array("i", ids), own.prompt_length),))
        check_budget(others, self.token_budget, split_examples=True, is_padded=self.is_padded)
        self.mismatched = BatchDataset(others, self.token_budget, split_examples=True, is_padded=self.is_padded)


def check_budget(examples: Sequence[Example], budget: int, *, split_examples: bool, is_padded: bool) -> None:
    """Check that each example fits into a micro-batch, on its own; raise UserError naming the longest."""

    def tokens(example: Example) -> int:
        lengths = [len(s.input_ids) for s in example]
        if split_examples:
            return max(lengths)
        return len(lengths) * max(lengths) if is_padded else sum(lengths)

    longest = max(examples, key=tokens)
    if tokens(longest) > budget:
        raise UserError(
            f"data.micro_batch_tokens={budget} is less than the {tokens(longest)} tokens of {longest[0].id}: raise it,"
            " or drop long examples with data.max_completion_tokens"
        )
