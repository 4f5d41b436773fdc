"""From a corpus to the tokenised, weighted sequences of one objective: what `TraceDataModule` makes batches of.

examples = encode_examples(corpus, encoder, "pairs", token_weights="spans", prefix_weight=0.5)
chosen, rejected = examples[0]
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from redi_lab.data.packing import Task
from redi_lab.data.token_weights import READS, Rule, checked, common_prefix, weigh
from redi_lab.data.tokenization import TokenizedSequence, TraceEncoder
from redi_lab.data.traces import Demonstration, Negative, TraceCorpus, TraceWeights
from redi_lab.errors import UserError

Example = tuple[TokenizedSequence, ...]
"""A chosen and a rejected sequence, or one alone."""

_ROWS_AT_ONCE = 1024  # even: both sides of a pair are among them


class _Row(NamedTuple):
    """A completion to encode, and what it counts."""

    id: str
    problem: str
    completion: str
    is_chosen: bool
    trace_weights: TraceWeights
    weight: float
    pass_rate: float | None


def encode_examples(
    corpus: TraceCorpus,
    encoder: TraceEncoder,
    task: Task,
    token_weights: Rule = "none",
    prefix_weight: float = 1.0,
    tail_weight: float = 1.0,
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Example]:
    """The examples of a task, in the order of the corpus.

    Args:
        corpus: what the source gave.
        encoder: turns text into tokens.
        task: see `TraceDataModule`.
        token_weights: the rule that makes token weights of the spans or steps of a trace.
        prefix_weight: factor on the tokens that both sides of a pair share from their start.
        tail_weight: factor on the tokens of a side beyond the length of the other one (LD-DPO, arXiv 2409.06411).
        on_progress: told (sequences tokenised, sequences).

    Raises:
        UserError: as `TraceEncoder.encode_all`; or the rule cannot weigh a trace, or gives it nothing but zeros.
    """
    if token_weights != "none" and READS[token_weights] not in marked_columns(corpus):
        raise UserError(
            f"{corpus.source}: data.token_weights={token_weights} needs {READS[token_weights]}, and no trace has any:"
            " add that column, or set data.token_weights=none"
        )
    rows, width = list(_rows(corpus, task)), 2 if task == "pairs" else 1
    examples: list[Example] = []
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = rows[start : start + _ROWS_AT_ONCE]
        sequences = _encode(part, encoder)
        encoded = list(zip(part, sequences, _token_weights(part, encoder, token_weights), strict=True))
        examples += [
            _example(encoded[at : at + width], prefix_weight, tail_weight) for at in range(0, len(part), width)
        ]
        if on_progress is not None:
            on_progress(start + len(part), len(rows))
    return examples


def marked_columns(corpus: TraceCorpus) -> list[str]:
    """Which of spans and steps there are in a corpus."""
    alone: tuple[Demonstration | Negative, ...] = (*corpus.demonstrations, *(corpus.unpaired_negatives or ()))
    traces = [trace.weights for trace in alone]
    traces += chain.from_iterable((pair.chosen_weights, pair.rejected_weights) for pair in corpus.pairs)
    return [name for name in ("spans", "steps") if any(getattr(weights, name) for weights in traces)]


def _rows(corpus: TraceCorpus, task: Task) -> Iterator[_Row]:
    if task == "pairs":
        for p in corpus.pairs:
            yield _Row(p.id, p.problem, p.chosen, True, p.chosen_weights, p.weight, p.pass_rate)
            yield _Row(p.id, p.problem, p.rejected, False, p.rejected_weights, p.weight, p.pass_rate)
        return
    alone: tuple[Demonstration | Negative, ...] = corpus.demonstrations
    for t in (*alone, *(corpus.negatives if task == "unpaired" else ())):
        is_chosen = isinstance(t, Demonstration)
        yield _Row(t.id, t.problem, t.completion, is_chosen, t.weights, t.weights.weight, t.pass_rate)


def _encode(rows: Sequence[_Row], encoder: TraceEncoder) -> list[TokenizedSequence]:
    """Each row behind the prompt of its side."""
    if encoder.rejected is encoder:
        return encoder.encode_all([(row.id, row.problem, row.completion) for row in rows])
    sides = {
        side: iter(one.encode_all([(row.id, row.problem, row.completion) for row in rows if row.is_chosen is side]))
        for side, one in ((True, encoder), (False, encoder.rejected))
    }
    return [next(sides[row.is_chosen]) for row in rows]


def _token_weights(rows: Sequence[_Row], encoder: TraceEncoder, rule: Rule) -> list[NDArray[np.float64] | None]:
    """What the rule makes of each completion; None where it weighs no token."""
    characters = [weigh(rule, row.trace_weights, is_chosen=row.is_chosen, row=row.id) for row in rows]
    weighed = [row.completion for row, weights in zip(rows, characters, strict=True) if weights is not None]
    places = iter(encoder.last_characters(weighed) if weighed else ())
    return [None if weights is None else weights.at(next(places)) for weights in characters]


def _example(
    sides: Sequence[tuple[_Row, TokenizedSequence, NDArray[np.float64] | None]],
    prefix_weight: float,
    tail_weight: float,
) -> Example:
    """The sequences of one example with their weights, those of a shared prefix and of a longer side's end scaled."""
    shared, is_scaled = 0, len(sides) == 2 and (prefix_weight, tail_weight) != (1.0, 1.0)
    if is_scaled and prefix_weight != 1.0:
        shared = common_prefix(*(sequence.input_ids[sequence.prompt_length :] for _, sequence, _ in sides))
    both = min(sequence.completion_length for _, sequence, _ in sides)
    done = []
    for row, sequence, weights in sides:
        token_weights = None
        if is_scaled or weights is not None:
            scaled = np.ones(sequence.completion_length) if weights is None else weights
            scaled[:shared] *= prefix_weight
            scaled[both:] *= tail_weight if is_scaled else 1.0
            token_weights = checked(scaled, f"{row.id}: its {'chosen' if row.is_chosen else 'rejected'} completion")
        done.append(
            replace(
                sequence,
                is_chosen=row.is_chosen,
                weight=row.weight,
                pass_rate=row.pass_rate,
                token_weights=token_weights,
            )
        )
    return tuple(done)


def digest_sequences(sequences: Iterable[TokenizedSequence]) -> str:
    """SHA-256 of token ids, prompt lengths, sides, weights and pass rates, in order."""
    state = hashlib.sha256()
    for sequence in sequences:
        side = "" if sequence.is_chosen else "-"
        state.update(f"{side}{sequence.prompt_length}/{len(sequence.input_ids)};".encode())
        state.update(array("i", sequence.input_ids).tobytes())
        if sequence.weight != 1.0 or sequence.pass_rate is not None:
            state.update(f"{sequence.weight}/{sequence.pass_rate};".encode())
        if sequence.token_weights is not None:
            state.update(b"w" + array("f", sequence.token_weights).tobytes())
    return state.hexdigest()
