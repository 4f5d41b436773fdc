"""Prompt and completion as tokens: nothing lost, nothing doubled, one end-of-turn token in the loss."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from tokenizers.decoders import ByteLevel
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from redi_lab.data.tokenization import (
    TokenizedSequence,
    TraceEncoder,
    digest_sequences,
    find_end_of_turn,
    set_chat_template,
    train_tokenizer,
)
from redi_lab.errors import UserError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITHOUT_THOUGHTS = CHATML.replace("m['content']", "m['content'].split('</think>')[-1].strip()")
WITH_BOS = "<s>" + CHATML
COMPLETION = "<think>\n1+1 is 2\n</think>\nSo \\boxed{2}"


def byte_tokenizer(chat_template: str | None = None, *, template_of_text: str | None = None, eos: bool = True) -> Any:
    """Every byte a token; `<s>` and `</s>` stand around texts where `template_of_text` says so."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    core = Tokenizer(models.BPE({token: i for i, token in enumerate(special + alphabet)}, []))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = ByteLevel()
    core.add_special_tokens(special)
    if template_of_text is not None:
        core.post_processor = processors.TemplateProcessing(
            single=template_of_text, special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<s>",
        eos_token="</s>" if eos else None,
        chat_template=chat_template,
        extra_special_tokens=["<|im_start|>", "<|im_end|>"],
    )


def encode(encoder: TraceEncoder, problem: str, completion: str) -> tuple[str, str]:
    """Prompt and completion as text, read back from the token ids."""
    (row,) = encoder.encode_all([("row", problem, completion)])
    ids = list(row.input_ids)
    assert row.completion_length == len(ids) - row.prompt_length
    texts = encoder.tokenizer.batch_decode([ids[: row.prompt_length], ids[row.prompt_length :]])
    return texts[0], texts[1]


@pytest.mark.parametrize(
    ("template", "prompt", "end"),
    [
        (None, "1+1?", "</s>"),
        (CHATML, "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
        (WITH_BOS, "<s><|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
        # A template may drop the thoughts of past turns: the completion must not go through it.
        (WITHOUT_THOUGHTS, "<|im_start|>user\n1+1?<|im_end|>\n<|im_start|>assistant\n", "<|im_end|>"),
    ],
    ids=["plain", "chatml", "bos", "without_thoughts"],
)
@pytest.mark.parametrize("closings", ["", "{end}", "{end}{end}", "{end}\n", "{end}\n{end}\n"])
def test_exactly_one_end_of_turn_token(template: str | None, prompt: str, end: str, closings: str) -> None:
    """Also where the corpus has closed its turns itself, and with the newline that ChatML writes after them."""
    encoder = TraceEncoder(byte_tokenizer(template))
    assert encode(encoder, "1+1?", COMPLETION + closings.format(end=end)) == (prompt, COMPLETION + end)


def test_whitespace_of_an_open_completion_stays() -> None:
    assert encode(TraceEncoder(byte_tokenizer()), "1+1?", " 2 \n") == ("1+1?", " 2 \n</s>")


def test_a_tokenizer_that_brackets_every_text() -> None:
    """BOS opens the prompt once and never the completion; the EOS of a whole text is no part of a prompt."""
    encoder = TraceEncoder(byte_tokenizer(template_of_text="<s> $A </s>"))
    assert encode(encoder, "1+1?", "2") == ("<s>1+1?", "2</s>")
    with_template = TraceEncoder(byte_tokenizer(WITH_BOS, template_of_text="<s> $A </s>"))
    prompt, completion = encode(with_template, "1+1?", "2")
    assert (prompt.count("<s>"), prompt.count("</s>"), completion) == (1, 0, "2<|im_end|>")


def test_the_eos_of_the_tokenizer_closes_where_the_template_closes_nothing() -> None:
    tokenizer = byte_tokenizer("{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}")
    assert find_end_of_turn(tokenizer) == tokenizer.eos_token_id


def test_no_way_to_close_a_turn_is_refused() -> None:
    with pytest.raises(UserError, match=r"no EOS token .* set eos_token in its tokenizer_config"):
        TraceEncoder(byte_tokenizer(eos=False))
    assert encode(TraceEncoder(byte_tokenizer(CHATML, eos=False)), "1+1?", "2")[1] == "2<|im_end|>"


@pytest.mark.parametrize("template", [None, CHATML])
def test_the_thinking_prefix_is_prompt_and_comes_once(template: str | None) -> None:
    encoder = TraceEncoder(byte_tokenizer(template), thinking_prefix="<think>\n")
    for completion in (COMPLETION, COMPLETION.removeprefix("<think>\n")):
        prompt, loss = encode(encoder, "1+1?", completion)
        assert prompt.endswith("<think>\n")
        assert (prompt + loss).count("<think>") == 1
        assert loss.startswith("1+1 is 2\n</think>\nSo")


def test_the_template_of_the_user_turn() -> None:
    """Braces of LaTeX stay as they are: `{problem}` is replaced, nothing is formatted."""
    encoder = TraceEncoder(byte_tokenizer(), "Put it in \\boxed{}.\n{problem}\n")
    assert encode(encoder, "What is {1}{problem}?", "2")[0] == "Put it in \\boxed{}.\nWhat is {1}{problem}?\n"
    with pytest.raises(UserError, match=r"data\.prompt_template='Solve:' has no \{problem\}"):
        TraceEncoder(byte_tokenizer(), "Solve:")


@pytest.mark.parametrize("template", [None, CHATML])
def test_nothing_is_truncated(template: str | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    tokenizer = byte_tokenizer(template)
    tokenizer.model_max_length = 4
    tokenizer.truncation_side = "left"
    problem, solution = "x" * 300, "y" * 500
    prompt, completion = encode(TraceEncoder(tokenizer), problem, solution)
    assert problem in prompt
    assert completion.removesuffix("</s>").removesuffix("<|im_end|>") == solution


@pytest.mark.parametrize("empty", ["", "</s>", "</s>\n</s>"])
def test_completions_of_zero_tokens_are_refused_by_name(empty: str) -> None:
    encoder = TraceEncoder(byte_tokenizer())
    rows = [(f"row {n}", "1+1?", empty if n % 2 else "2") for n in range(24)]
    with pytest.raises(UserError, match=r"12 rows have a completion of zero tokens.*: row 1, row 3, .*row 19, …"):
        encoder.encode_all(rows)
    assert encoder.completion_ids(empty) == []


def test_prompts_of_zero_tokens_are_refused_by_name() -> None:
    """Nothing would predict the first completion token."""
    with pytest.raises(UserError, match=r"1 rows have a prompt of zero tokens.*: second$"):
        TraceEncoder(byte_tokenizer()).encode_all([("first", "1+1?", "2"), ("second", "", "2")])


@pytest.mark.parametrize("template", [None, CHATML])
def test_encoding_all_is_encoding_one_by_one(template: str | None) -> None:
    encoder = TraceEncoder(byte_tokenizer(template), "Q: {problem}", "<think>")
    rows = [(f"row {n}", "?" * (n + 1), "é∑ " * (3 * n + 1)) for n in range(5)]
    together = encoder.encode_all(rows)
    assert [row.id for row in together] == [name for name, _, _ in rows]
    for row, (_, problem, completion) in zip(together, rows, strict=True):
        prompt = encoder.prompt_ids(problem)
        assert list(row.input_ids) == prompt + encoder.completion_ids(completion)
        assert row.prompt_length == len(prompt)
    assert encoder.encode_all([]) == []


def test_a_chat_template_from_a_file_or_as_text(tmp_path: Path) -> None:
    file = tmp_path / "chat.jinja"
    file.write_text(CHATML, encoding="utf-8")
    for template in (str(file), CHATML):
        tokenizer = byte_tokenizer()
        set_chat_template(tokenizer, template)
        assert tokenizer.chat_template == CHATML
    tokenizer = byte_tokenizer(WITH_BOS)
    set_chat_template(tokenizer, None)
    assert tokenizer.chat_template == WITH_BOS
    with pytest.raises(UserError, match=r"model\.chat_template='gone\.jinja' is neither a file nor a Jinja template"):
        set_chat_template(tokenizer, "gone.jinja")


def test_a_trained_tokenizer_spells_any_text(tmp_path: Path) -> None:
    corpus = ["the answer is the answer", "so the answer is 12"]
    tokenizer = train_tokenizer(corpus, vocab_size=300, whole_tokens=["<<12>>"])
    assert 257 < len(tokenizer) <= 301
    assert train_tokenizer(corpus, 300, ["<<12>>"]).get_vocab() == tokenizer.get_vocab()
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in ["the answer", "日本語 naïve \t\n  x", "a<<12>>b", "don't 1234"]:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
        assert loaded(text)["input_ids"] == ids
    assert tokenizer.tokenize("a<<12>>b") == ["a", "<<12>>", "b"]
    assert len(tokenizer(" answer")["input_ids"]) == 1


def test_the_digest_knows_tokens_lengths_and_order() -> None:
    a, b = TokenizedSequence("a", (1, 2, 3), 1), TokenizedSequence("b", (4, 5), 1)
    digests = {
        digest_sequences(sequences)
        for sequences in (
            [a, b],
            [b, a],
            [a],
            [TokenizedSequence("a", (1, 2, 4), 1), b],
            [TokenizedSequence("a", (1, 2, 3), 2), b],
            [TokenizedSequence("a", (1, 2), 1), TokenizedSequence("b", (3, 4, 5), 1)],
        )
    }
    assert len(digests) == 6
    assert digest_sequences([TokenizedSequence("other name", [1, 2, 3], 1), b]) in digests


def test_a_completion_of_end_tokens_costs_linear_time() -> None:
    """200,000 of them took minutes, each cut off by a copy of the rest. Time of the processor, not of the clock."""
    tokenizer = byte_tokenizer(CHATML)
    encoder = TraceEncoder(tokenizer, "{problem}", "")
    end = tokenizer.decode([encoder.end_of_turn_id])
    began = time.process_time()
    assert encoder._open_text("4" + f"{end}\n" * 200_000) == "4"
    assert encoder._open_text(f"4 {end} \n") == "4 "
    assert encoder._open_text("4" + " " * 200_000) == "4" + " " * 200_000
    assert time.process_time() - began < 5


def test_an_end_token_without_text_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = byte_tokenizer(CHATML)
    encoder = TraceEncoder(tokenizer, "{problem}", "")
    monkeypatch.setattr(type(tokenizer), "decode", lambda self, ids, **_: "")
    assert encoder._open_text("4 \n") == "4 \n"
