from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from redi_lab.data.student_tokenizer import set_chat_template, train_tokenizer
from redi_lab.errors import UserError
from tests.data.test_tokenization import CHATML, WITH_BOS, byte_tokenizer


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
