"""From a corpus to the tokenised, weighted sequences of one objective: what `TraceDataModule` makes batches of.

examples = encode_examples(corpus, encoder, "pairs", token_weights="spans", prefix_weight=0.5)
chosen, rejected = examples[0]
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from typing import NamedTuple

from redi_lab.data.packing import Task
from redi_lab.data.token_weights import READS, Rule, checked, common_prefix, weigh
from redi_lab.data.tokenization import TokenizedSequence, TraceEncoder
from redi_lab.data.traces import Demonstration, Negative, TraceCorpus, TraceWeights
from redi_lab.errors import UserError

Example = tuple[TokenizedSequence, ...]
"""A chosen and a rejected sequence, or one alone."""

_ROWS_AT_ONCE = 1024


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
    on_progress: Callable[[int, int], None] | None = None,
) -> list[Example]:
    """The examples of a task, in the order of the corpus.

    Args:
        corpus: what the source gave.
        encoder: turns text into tokens.
        task: see `TraceDataModule`.
        token_weights: the rule that makes token weights of the spans or steps of a trace.
        prefix_weight: factor on the tokens that both sides of a pair share from their start.
        on_progress: told (sequences tokenised, sequences).

    Raises:
        UserError: as `TraceEncoder.encode_all`; or the rule cannot weigh a trace, or gives it nothing but zeros.
    """
    if token_weights != "none" and READS[token_weights] not in marked_columns(corpus):
        raise UserError(
            f"{corpus.source}: data.token_weights={token_weights} needs {READS[token_weights]}, and no trace has any:"
            " add that column, or set data.token_weights=none"
        )
    rows, sequences = list(_rows(corpus, task)), list[TokenizedSequence]()
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        sequences += _encoded(rows[start : start + _ROWS_AT_ONCE], encoder, token_weights)
        if on_progress is not None:
            on_progress(len(sequences), len(rows))
    if task != "pairs":
        return [(_finished(sequence),) for sequence in sequences]
    examples = []
    for pair in zip(sequences[::2], sequences[1::2], strict=True):
        shared = 0 if prefix_weight == 1.0 else common_prefix(*(s.input_ids[s.prompt_length :] for s in pair))
        examples.append(tuple(_finished(sequence, shared, prefix_weight) for sequence in pair))
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


def _encoded(rows: Sequence[_Row], encoder: TraceEncoder, rule: Rule) -> list[TokenizedSequence]:
    sequences = encoder.encode_all([(row.id, row.problem, row.completion) for row in rows])
    characters = [weigh(rule, row.trace_weights, is_chosen=row.is_chosen, row=row.id) for row in rows]
    weighed = [row.completion for row, weights in zip(rows, characters, strict=True) if weights is not None]
    places = iter(encoder.last_characters(weighed) if weighed else ())
    return [
        replace(
            sequence,
            is_chosen=row.is_chosen,
            weight=row.weight,
            pass_rate=row.pass_rate,
            token_weights=None if weights is None else array("f", weights.at(next(places))),
        )
        for sequence, row, weights in zip(sequences, rows, characters, strict=True)
    ]


def _finished(sequence: TokenizedSequence, number: int = 0, factor: float = 1.0) -> TokenizedSequence:
    """The sequence with the weights of its first `number` tokens multiplied, and all of them checked."""
    if number == 0 and sequence.token_weights is None:
        return sequence
    weights = sequence.token_weights or [1.0] * sequence.completion_length
    scaled = [*(factor * weight for weight in weights[:number]), *weights[number:]]
    side = "chosen" if sequence.is_chosen else "rejected"
    return replace(sequence, token_weights=checked(scaled, f"{sequence.id}: its {side} completion"))
