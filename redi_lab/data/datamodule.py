"""Global batches in a seeded order, the same for every number of ranks.

One item of the loader is one `Batch`, i.e. one optimizer step. Its order depends on seed and epoch alone; each rank
packs its share of every global batch and learns what the whole of it holds, so the loss can be normalised globally.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Self, final

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from redi_lab.data.batches import BatchDataset, BatchSampler, check_budget
from redi_lab.data.examples import Example, digest_sequences, encode_examples, marked_columns
from redi_lab.data.packing import Batch, Task
from redi_lab.data.token_weights import READS, Rule
from redi_lab.data.tokenization import TokenizedSequence, TraceEncoder
from redi_lab.data.traces import TraceCorpus
from redi_lab.errors import UserError


@final
class TraceDataModule(pl.LightningDataModule):
    """Tokenised demonstrations, pairs, or both sides without pairs, as global batches; `of_corpus` makes it from text.

    Args:
        train_set: what is trained on.
        val_set: what is kept out of training; it may be empty.
        task: "demonstrations" (D_SFT), "pairs" (D_Pref), or "unpaired": the demonstrations and the negatives.
        batch_size: examples of one optimizer step, over all ranks; where unpaired, those of the larger side.
        seed: of the order.
        dropped: why examples of the corpus are in neither set, and how many.
        unused_columns: weights of the corpus that were not asked for.

    Raises:
        UserError: where unpaired, the sides are of too unequal size.
    """

    def __init__(
        self,
        train_set: BatchDataset,
        val_set: BatchDataset,
        *,
        task: Task,
        batch_size: int,
        seed: int,
        dropped: Mapping[str, int] = MappingProxyType({}),
        unused_columns: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.train_set, self.val_set = train_set, val_set
        self.train_examples, self.val_examples = train_set.examples, val_set.examples
        self.task = task
        self.batch_size = batch_size
        self.seed = seed
        self.dropped = dropped
        self.unused_columns = unused_columns
        self._resumed_at = (0, 0)
        self.train_dataloader()  # refuses sides of very unequal size before training

    @classmethod
    def of_corpus(
        cls,
        corpus: TraceCorpus,
        encoder: TraceEncoder,
        *,
        task: Task,
        batch_size: int,
        micro_batch_tokens: int,
        split_examples: bool,
        is_padded: bool = False,
        seed: int,
        num_validation: int = 0,
        max_prompt_tokens: int | None = None,
        max_completion_tokens: int | None = None,
        max_sequence_tokens: int | None = None,
        token_weights: Rule = "none",
        prefix_weight: float = 1.0,
        tail_weight: float = 1.0,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Self:
        """Tokenise a corpus and drop what is too long.

        Args:
            corpus: what the source gave.
            encoder: turns text into tokens.
            task: see the class.
            batch_size: see the class.
            micro_batch_tokens: most tokens of one forward pass on one device.
            split_examples: whether chosen and rejected may lie in different forward passes.
            is_padded: whether the model is fed padded grids, whose cells then count as tokens of a forward pass.
            seed: of the order and of the choice of validation problems.
            num_validation: problems kept out of training for the validation loss. The choice depends on seed and ids,
                so both stages keep out the same ones.
            max_prompt_tokens: longer prompts are dropped, and counted; None keeps all.
            max_completion_tokens: examples with a longer completion are dropped, and counted; None keeps all.
            max_sequence_tokens: the same for prompt and completion together.
            token_weights: how columns of the data weigh tokens, see `redi_lab.data.token_weights`.
            prefix_weight: factor on the tokens that both sides of a pair share from their start.
            tail_weight: factor on the tokens of a side beyond the length of the other one.
            on_progress: told (sequences tokenised, sequences).

        Raises:
            UserError: nothing is left to train on, an example is longer than a micro-batch, or its tokens cannot be
                weighed.
        """
        dropped: Counter[str] = Counter()
        limits = {"prompt": max_prompt_tokens, "completion": max_completion_tokens, "sequence": max_sequence_tokens}
        encoded = encode_examples(corpus, encoder, task, token_weights, prefix_weight, tail_weight, on_progress)
        examples = [example for example in encoded if _is_within(example, limits, dropped)]
        kept_out = _validation_ids(corpus, num_validation, seed)
        train, val = ([e for e in examples if (e[0].id in kept_out) is is_kept] for is_kept in (False, True))
        if not train:
            raise UserError(
                f"{corpus.source}: no {'traces' if task == 'unpaired' else task} to train on"
                f" ({dict(corpus.counts.dropped) | dict(dropped)} dropped,"
                f" {len(val)} kept for validation); pairs need a right and a wrong trace of one problem"
            )
        check_budget(examples, micro_batch_tokens, split_examples=split_examples, is_padded=is_padded)
        sets = (
            BatchDataset(split, micro_batch_tokens, split_examples=split_examples, is_padded=is_padded)
            for split in (train, val)
        )
        unused = [name for name in marked_columns(corpus) if name != READS.get(token_weights)]
        return cls(*sets, task=task, batch_size=batch_size, seed=seed, dropped=dropped, unused_columns=unused)

    @property
    def datasets(self) -> list[BatchDataset]:
        """All that holds examples: of training, of validation, and what is set beside them."""
        both = [split for split in (self.train_set, self.val_set) if split.examples]
        return [*both, *(split.mismatched for split in both if split.mismatched is not None)]

    def digest(self) -> str:
        """SHA-256 of the training tokens, in order: what a model trained on this has seen."""
        return digest_sequences(sequence for example in self.train_examples for sequence in example)

    def counts(self) -> dict[str, Any]:
        """Examples per split, what was dropped under which name, and columns that `token_weights` does not use."""
        return {
            "train": len(self.train_examples),
            "validation": len(self.val_examples),
            "dropped": dict(self.dropped),
            "unused_columns": list(self.unused_columns),
            "train_completion_tokens": sum(s.completion_length for e in self.train_examples for s in e),
        }

    def check_positions(self, max_positions: int | None, window: int | None) -> None:
        """Hold every sequence against the positions that a model was made for.

        Args:
            max_positions: of the model, None where it has no limit.
            window: a sliding window of its attention that packed rows do not have; None where there is none.

        Raises:
            UserError: a sequence is longer.
        """
        sequences = (s for e in (*self.train_examples, *self.val_examples) for s in e)
        longest = max(sequences, key=lambda s: len(s.input_ids))
        length = len(longest.input_ids)
        if window is not None and length > window:
            raise UserError(
                f"{longest.id} has {length} tokens, more than the model's sliding window of {window}, which packed rows"
                " do not have: set model.attention=padded, or drop long examples with"
                f" data.max_sequence_tokens={window}"
            )
        if max_positions is not None and length > max_positions:
            raise UserError(
                f"{longest.id} has {length} tokens, the model {max_positions} positions: drop long examples with"
                f" data.max_sequence_tokens={max_positions}, or set model.config_overrides.max_position_embeddings (and"
                " rope_theta)"
            )

    def check_pass_rates(self) -> None:
        """Check that the share of right traces is known for the problem of each sequence.

        Raises:
            UserError: it is not known for one of them.
        """
        for sequence in (s for e in (*self.train_examples, *self.val_examples) for s in e):
            if sequence.pass_rate is None:
                raise UserError(
                    f"{sequence.id}: the share of right traces of its problem is not known, which this objective needs:"
                    " give problems with graded generations, or choose another loss"
                )

    def start_at(self, epoch: int, batch: int) -> None:
        """Let training begin behind `batch` batches of an epoch: a resumed run has seen them."""
        self._resumed_at = (epoch, batch)

    def setup(self, stage: str | None = None) -> None:
        """Learn which share of each batch is this rank's."""
        if self.trainer is not None:
            for dataset in self.datasets:
                dataset.rank, dataset.world_size = self.trainer.global_rank, self.trainer.world_size

    def train_dataloader(self) -> DataLoader[Batch]:
        """Global batches of training examples."""
        return self._loader(self.train_set, shuffle=True, resumed_at=self._resumed_at)

    def val_dataloader(self) -> DataLoader[Batch] | list[DataLoader[Batch]]:
        """Global batches of validation examples, in order; none where none are kept."""
        return self._loader(self.val_set, shuffle=False) if self.val_examples else []

    def _loader(
        self, dataset: BatchDataset, *, shuffle: bool, resumed_at: tuple[int, int] = (0, 0)
    ) -> DataLoader[Batch]:
        sizes: tuple[int, ...] = (len(dataset.examples),)
        if self.task == "unpaired":
            num_chosen = sum(sequence.is_chosen for (sequence,) in dataset.examples)
            sizes = (num_chosen, len(dataset.examples) - num_chosen)
        sampler = BatchSampler(sizes, self.batch_size, self.seed, shuffle=shuffle, resumed_at=resumed_at)
        # The sampler yields whole batches and the dataset packs them, in this process, since that takes milliseconds:
        # batch_size=None keeps torch from batching again.
        return DataLoader(dataset, batch_size=None, sampler=sampler)


def _is_within(example: Example, limits: Mapping[str, int | None], dropped: Counter[str]) -> bool:
    """Whether no sequence exceeds a limit; counts the example under the first one that it does exceed."""
    for what, limit in limits.items():
        if limit is not None and max(_length(sequence, what) for sequence in example) > limit:
            dropped[f"{what} over {limit} tokens"] += 1
            return False
    return True


def _length(sequence: TokenizedSequence, what: str) -> int:
    return {
        "prompt": sequence.prompt_length,
        "completion": sequence.completion_length,
        "sequence": len(sequence.input_ids),
    }[what]


def _validation_ids(corpus: TraceCorpus, number: int, seed: int) -> set[str]:
    """Problems that both stages keep out of training: they have pairs where there are pairs."""
    candidates = {row.id for row in (corpus.pairs or corpus.demonstrations)}
    by_hash = sorted(candidates, key=lambda name: hashlib.sha256(f"{seed}/{name}".encode()).digest())
    return set(by_hash[:number])
