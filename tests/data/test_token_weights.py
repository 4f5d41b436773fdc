"""The rules on characters, and what they make of tokens: every weight by hand."""

from __future__ import annotations

from array import array
from typing import Any

import numpy as np
import pytest

from redi_lab.data.arithmetic import build_tokenizer
from redi_lab.data.datamodule import TraceDataModule
from redi_lab.data.examples import encode_examples, marked_columns
from redi_lab.data.packing import Task
from redi_lab.data.token_weights import Rule, checked, common_prefix, weigh
from redi_lab.data.tokenization import TokenizedSequence, TraceEncoder
from redi_lab.data.traces import (
    UNWEIGHTED,
    Demonstration,
    Negative,
    Pair,
    SelectionCounts,
    Span,
    Step,
    TraceCorpus,
    TraceWeights,
)
from redi_lab.errors import UserError
from tests.data.test_tokenization import CHATML, byte_tokenizer

STEPS = TraceWeights(steps=(Step(0, 2, True, 0.5), Step(3, 5, False, -2.0), Step(5, 6, False, 1.0)))
SPANS = TraceWeights(spans=(Span(1, 3, -0.5), Span(3, 4, 2.0)))


@pytest.mark.parametrize(
    ("rule", "trace", "is_chosen", "expected"),
    [
        ("none", SPANS, True, None),
        ("spans", UNWEIGHTED, True, None),
        ("spans", SPANS, True, [1, -0.5, -0.5, 2, 1, 1, 1]),
        ("spans", SPANS, False, [1, -0.5, -0.5, 2, 1, 1, 1]),
        ("after_first_error", UNWEIGHTED, True, None),
        ("after_first_error", STEPS, False, [0, 0, 0, 1, 1, 1, 1]),
        ("step_advantages", STEPS, True, [0.5, 0.5, 0, -2, -2, 1, 0]),
        ("step_advantages", STEPS, False, [-0.5, -0.5, 0, 2, 2, -1, 0]),
    ],
)
def test_a_rule_weighs_characters(
    rule: Rule, trace: TraceWeights, is_chosen: bool, expected: list[float] | None
) -> None:
    weights = weigh(rule, trace, is_chosen=is_chosen, row="a")
    assert (weights and weights.at(range(7)).tolist()) == expected


@pytest.mark.parametrize(
    ("rule", "trace", "is_chosen", "message"),
    [
        ("after_first_error", UNWEIGHTED, False, '"right": false'),
        ("after_first_error", TraceWeights(steps=(Step(0, 1, True), Step(1, 2))), False, '"right": false'),
        ("step_advantages", UNWEIGHTED, True, "its chosen trace has no steps"),
        (
            "step_advantages",
            TraceWeights(steps=(Step(0, 1, None, 1.0), Step(4, 5))),
            False,
            "step at 4 of its rejected",
        ),
    ],
)
def test_a_trace_without_what_its_rule_needs_is_named(
    rule: Rule, trace: TraceWeights, is_chosen: bool, message: str
) -> None:
    with pytest.raises(UserError, match=rf"^row 7: data\.token_weights={rule}: .*{message}"):
        weigh(rule, trace, is_chosen=is_chosen, row="row 7")


def test_weights_are_checked_in_single_precision() -> None:
    assert checked(np.ones(2), "a") is None
    assert checked(np.array([0.1, -1.0]), "a") == array("f", [0.1, -1.0])
    for nothing in ([0.0, -0.0], [1e-50, 0.0]):
        with pytest.raises(UserError, match=r"^row 7 has no token whose weight is not 0"):
            checked(np.array(nothing), "row 7")
    for wild in (float("nan"), float("-inf"), 1e39):
        with pytest.raises(UserError, match=r"^row 7 has a token whose weight is not finite"):
            checked(np.array([wild, 1.0]), "row 7")


def test_a_common_prefix() -> None:
    assert [common_prefix(*sides) for sides in (("", "a"), ("ab", "ac"), ("ab", "abc"), ("ba", "ca"))] == [0, 1, 2, 0]


def corpus(*records: Demonstration | Negative | Pair) -> TraceCorpus:
    demonstrations, pairs, negatives = (
        tuple(r for r in records if isinstance(r, kind)) for kind in (Demonstration, Pair, Negative)
    )
    counts = SelectionCounts(len(records), {}, len(demonstrations), len(pairs), {}, 0)
    return TraceCorpus("mine.jsonl", demonstrations, pairs, (), counts, negatives or None)  # type: ignore[arg-type]


def encoded(
    encoder: TraceEncoder, task: Task, rule: Rule, *records: Demonstration | Negative | Pair, prefix_weight: float = 1.0
) -> list[TokenizedSequence]:
    examples = encode_examples(corpus(*records), encoder, task, rule, prefix_weight)
    return [sequence for example in examples for sequence in example]


def weights_of(sequence: TokenizedSequence) -> list[float] | None:
    return None if sequence.token_weights is None else list(sequence.token_weights)


def test_a_token_has_the_weight_of_its_last_character() -> None:
    """` add 72` is one token that begins with a space; the end of the turn goes with the text's last character."""
    encoder = TraceEncoder(build_tokenizer())
    text = "first add 72 to 6"
    tokens = encoder.tokenizer.convert_ids_to_tokens(encoder.completion_ids(text))
    assert [token.replace("Ġ", " ") for token in tokens] == ["first", " add 72", " to", " ", "6", "<|endoftext|>"]
    spans = TraceWeights(weight=2.0, spans=(Span(6, 12, -1.0), Span(13, 14, 9.0), Span(16, 17, 0.5)))
    (sequence,) = encoded(encoder, "demonstrations", "spans", Demonstration("a", "?", text, spans, 0.25))
    assert weights_of(sequence) == [1.0, -1.0, 1.0, 1.0, 0.5, 0.5]
    assert (sequence.weight, sequence.pass_rate, sequence.is_chosen) == (2.0, 0.25, True)


TEXT = "<think>日本 e\u0301😀x"
"""Of one byte a token: 3 bytes in each of 日 and 本, 1 + 2 in e with its accent, 4 in the face."""


@pytest.mark.parametrize(("prefix", "cut"), [("", 0), ("<think>", 7), ("<thin", 5), ("think", 0)])
@pytest.mark.parametrize("ending", ["", "<|im_end|>", "<|im_end|>\n<|im_end|>\n"])
def test_weights_stay_with_their_characters_when_texts_are_opened_and_closed(
    prefix: str, cut: int, ending: str
) -> None:
    encoder = TraceEncoder(byte_tokenizer(CHATML), thinking_prefix=prefix)
    spans = [Span(0, 2, 5.0), Span(7, 8, 2.0), Span(9, 11, -1.0), Span(12, 13, 3.0), Span(13, 14, 4.0)]
    spans += [Span(14, 14 + len(ending), 7.0)] if ending else []
    (sequence,) = encoded(
        encoder, "demonstrations", "spans", Demonstration("a", "?", TEXT + ending, TraceWeights(spans=tuple(spans)))
    )
    tokens = [5.0, 5.0, *[1.0] * 5, *[2.0] * 3, *[1.0] * 3, -1.0, -1.0, 1.0, 1.0, *[3.0] * 4, 4.0]
    assert weights_of(sequence) == [*tokens[cut:], 4.0]


def test_turns_in_a_completion_are_weighed_as_the_text_that_they_are_read_as() -> None:
    encoder = TraceEncoder(byte_tokenizer(CHATML))
    plain, marked = Demonstration("a", "?", "ab"), Demonstration("b", "?", "<|im_end|>b", SPANS)
    first, second = encoded(encoder, "demonstrations", "spans", plain, marked)
    assert weights_of(first) is None
    assert weights_of(second) == [1.0, -0.5, -0.5, 2.0, *[1.0] * 8]


PAIR = Pair(
    "a",
    "?",
    "same 12 x",
    "same 12 yy",
    TraceWeights(1.0, steps=(Step(5, 9, True, 0.5),)),
    TraceWeights(3.0, steps=(Step(0, 4, True, 0.25), Step(8, 10, False, -1.0))),
    0.5,
)


@pytest.mark.parametrize(
    ("rule", "prefix_weight", "chosen", "rejected"),
    [
        ("none", 1.0, None, None),
        ("none", 0.5, [*[0.5] * 8, 1, 1], [*[0.5] * 8, 1, 1, 1]),
        ("none", 0.0, [*[0] * 8, 1, 1], [*[0] * 8, 1, 1, 1]),
        ("after_first_error", 0.5, [*[0.5] * 8, 1, 1], [*[0] * 8, 1, 1, 1]),
        ("step_advantages", 1.0, [*[0] * 5, *[0.5] * 5], [*[-0.25] * 4, *[0] * 4, 1, 1, 1]),
        ("step_advantages", 2.0, [*[0] * 5, 1, 1, 1, 0.5, 0.5], [*[-0.5] * 4, *[0] * 4, 1, 1, 1]),
    ],
)
def test_both_sides_of_a_pair(
    rule: Rule, prefix_weight: float, chosen: list[float] | None, rejected: list[float] | None
) -> None:
    """One token a byte; eight are shared. The weight of the pair is the mean of 1 and 3, on both sides."""
    sequences = encoded(TraceEncoder(byte_tokenizer()), "pairs", rule, PAIR, prefix_weight=prefix_weight)
    assert [weights_of(sequence) for sequence in sequences] == [chosen, rejected]
    assert [(s.weight, s.pass_rate, s.is_chosen) for s in sequences] == [(2.0, 0.5, True), (2.0, 0.5, False)]


def test_each_side_has_the_prompt_of_its_template() -> None:
    """In the order of the data, whatever it is; what completions weigh does not depend on their prompts."""
    tokenizer = byte_tokenizer()
    encoder = TraceEncoder(tokenizer, "R {problem}", "", "W {problem}")
    traces = (Demonstration("a", "1", "x"), Demonstration("b", "2", "y"), Negative("c", "3", "z"))
    texts = {task: encoded(encoder, task, "none", *traces) for task in ("unpaired", "demonstrations")}
    assert read(tokenizer, texts["unpaired"]) == [("R 1", "x"), ("R 2", "y"), ("W 3", "z")]
    assert read(tokenizer, texts["demonstrations"]) == [("R 1", "x"), ("R 2", "y")]
    pairs = [encoded(one, "pairs", "none", PAIR, PAIR, prefix_weight=0.5) for one in (encoder, TraceEncoder(tokenizer))]
    assert read(tokenizer, pairs[0]) == [("R ?", PAIR.chosen), ("W ?", PAIR.rejected)] * 2
    assert [weights_of(s) for s in pairs[0]] == [weights_of(s) for s in pairs[1]]


def read(tokenizer: Any, sequences: list[TokenizedSequence]) -> list[tuple[str, str]]:
    """Prompts and completions."""
    cuts = [(s.input_ids[: s.prompt_length], s.input_ids[s.prompt_length : -1]) for s in sequences]
    return [(tokenizer.decode(prompt), tokenizer.decode(completion)) for prompt, completion in cuts]


def test_unpaired_traces_have_their_own_weights() -> None:
    """The rejected side of a pair as a negative, where the source gives none apart."""
    right = Demonstration("a", "?", PAIR.chosen, PAIR.chosen_weights, 0.5)
    first, second = encoded(TraceEncoder(byte_tokenizer()), "unpaired", "after_first_error", right, PAIR)
    assert (first.weight, first.is_chosen, weights_of(first)) == (1.0, True, None)
    assert (second.weight, second.is_chosen, second.pass_rate) == (3.0, False, 0.5)
    assert weights_of(second) == [*[0.0] * 8, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("pair", "rule", "prefix_weight", "message"),
    [
        (Pair("a", "?", "x", "y"), "spans", 1.0, r"^mine\.jsonl: data\.token_weights=spans needs spans"),
        (Pair("a", "?", "x", "y", SPANS), "after_first_error", 1.0, r"^mine\.jsonl: .*=after_first_error needs steps"),
        (Pair("a", "?", "x", "x</s>"), "none", 0.0, "^a: its chosen completion has no token whose weight is not 0"),
        (Pair("a", "?", "x", "xy"), "none", 1e39, "^a: its chosen completion has a token whose weight is not finite"),
        (
            Pair("a", "?", "x", "xyz</s>", rejected_weights=TraceWeights(steps=(Step(3, 7, False),))),
            "after_first_error",
            1.0,
            "^a: its rejected completion has no token whose weight is not 0",
        ),
    ],
)
def test_what_cannot_be_weighed_is_named(pair: Pair, rule: Rule, prefix_weight: float, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        encoded(TraceEncoder(byte_tokenizer()), "pairs", rule, pair, prefix_weight=prefix_weight)
    assert "\n" not in str(caught.value)


def test_what_a_side_has_beyond_the_other_is_scaled() -> None:
    """On the longer side alone, its end-of-turn token included, and with the factor on the shared start."""
    examples = encode_examples(
        corpus(Pair("a", "?", "ab", "a123")),
        TraceEncoder(byte_tokenizer()),
        "pairs",
        prefix_weight=0.5,
        tail_weight=0.25,
    )
    assert [weights_of(sequence) for sequence in examples[0]] == [[0.5, 1, 1], [0.5, 1, 1, 0.25, 0.25]]


def test_a_tokenizer_without_offsets_is_refused_only_where_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = TraceEncoder(byte_tokenizer())
    monkeypatch.setattr(type(encoder.tokenizer), "is_fast", False)
    assert weights_of(encoded(encoder, "pairs", "none", PAIR, prefix_weight=0.5)[0]) is not None
    with pytest.raises(UserError, match=r"does not say which characters .*set data\.token_weights=none"):
        encoded(encoder, "pairs", "spans", Pair("a", "?", "x1234", "y", SPANS))


@pytest.mark.parametrize(("rule", "unused"), [("none", ["spans", "steps"]), ("spans", ["steps"])])
def test_columns_that_no_rule_reads_are_said(rule: Rule, unused: list[str]) -> None:
    both = TraceWeights(spans=(Span(0, 1, 2.0),), steps=(Step(0, 1),))
    data = corpus(Demonstration("a", "?", "x"), Pair("a", "?", "x", "y", UNWEIGHTED, both))
    assert marked_columns(data) == ["spans", "steps"]
    assert marked_columns(corpus(Demonstration("a", "?", "x"), Negative("b", "?", "x", SPANS))) == ["spans"]
    options: dict[str, Any] = {"batch_size": 1, "micro_batch_tokens": 99, "split_examples": True, "seed": 0}
    module = TraceDataModule.of_corpus(
        data, TraceEncoder(byte_tokenizer()), task="pairs", token_weights=rule, **options
    )
    assert module.counts()["unused_columns"] == unused
