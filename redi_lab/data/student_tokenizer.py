"""The student's tokenizer: one trained on a corpus for a model made from scratch, and the chat template it is given.

tokenizer = train_tokenizer(texts, vocab_size=1000)
set_chat_template(tokenizer, "chat.jinja")
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from redi_lab.errors import UserError


def train_tokenizer(texts: Iterable[str], vocab_size: int, whole_tokens: Sequence[str] = ()) -> Any:
    """A byte-level BPE tokenizer of the Qwen2 family, for students made from scratch; its arguments decide all of it.

    The family matters: for a `qwen2` model folder transformers always builds a `Qwen2Tokenizer` and silently ignores
    any other kind of tokenizer that was saved there. Every byte has a token, so any text can be encoded.

    Args:
        texts: what the merges are learnt from.
        vocab_size: the most tokens, `whole_tokens` not counted; at least 257.
        whole_tokens: texts that are one token wherever they stand.
    """
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, trainers
    from transformers import Qwen2Tokenizer

    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    trained.train_from_iterator(texts, trainer)
    model = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in whole_tokens])
    return tokenizer


def set_chat_template(tokenizer: Any, template: str | None) -> None:
    """Give the tokenizer a chat template: a path of a Jinja file, the template itself, or None to keep its own.

    Raises:
        UserError: the text is neither a file nor a template.
    """
    if template is None:
        return
    if "{" not in template:
        path = Path(template)
        if not path.is_file():
            raise UserError(f"model.chat_template={template!r} is neither a file nor a Jinja template")
        template = path.read_text(encoding="utf-8")
    tokenizer.chat_template = template
