# ruff: noqa: E501 (a case is a line)
"""Tokenizers that cannot close a turn, write a prompt, or belong to the model."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bad_input.checkpoints import Spoil, evaluate, train
from tests.bad_input.world import Case, edit_json


def template(text: str) -> Spoil:
    return lambda folder: (folder / "chat_template.jinja").write_text(text)


def no_end(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", eos_token=None, pad_token=None)
    edit_json(folder / "config.json", eos_token_id=None, pad_token_id=None)
    edit_json(folder / "generation_config.json", eos_token_id=None, pad_token_id=None)


def no_tokenizer(folder: Path) -> None:
    for path in folder.glob("tokenizer*"):
        path.unlink()


def content(name: str, text: str) -> Spoil:
    return lambda folder: (folder / name).write_text(text)


def with_holes(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary[max(vocabulary, key=vocabulary.__getitem__)] = 10**5
    path.write_text(json.dumps(tokenizer))


def larger_than_the_model(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    size = max(tokenizer["model"]["vocab"].values()) + 1
    tokenizer["added_tokens"] += [
        {"id": size + n, "content": f"<|extra{n}|>", "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for n in range(50)
    ]  # fmt: skip
    path.write_text(json.dumps(tokenizer))


_TOO_LONG = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
_TRAIN: dict[str, tuple[Spoil, tuple[str, ...]]] = {
    "a template that never writes the problem": (template("<|im_start|>hello<|im_end|>"), ("chat template", "problem")),
    "no end of a turn": (no_end, ("/model", "EOS", "eos_token")),
    "no tokenizer at all": (no_tokenizer, ("/model", "tokenizer.json")),
    "a tokenizer.json that is not JSON": (content("tokenizer.json", "{"), ("/model",)),
    "a tokenizer_config.json that is not JSON": (content("tokenizer_config.json", "{"), ("/model",)),
    "a template with a syntax error": (template("{% for m in %}"), ("chat template",)),
    "a template that raises": (
        template("{{ raise_exception('no system turn') }}"),
        ("chat template", "no system turn"),
    ),
    "a template that leaves the sandbox": (
        template("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        ("chat template",),
    ),
    "a template that does not end": (template(_TOO_LONG), ("chat template", " s")),
    "a template that builds gigabytes": (template("{{ messages[0]['content'] * 10**9 }}"), ("chat template",)),
    "a prompt without tokens": (template("{{ messages[0]['content'][:0] }}"), ("chat template", "problem")),
    "a vocabulary with a hole": (with_holes, ("/model", "100001 tokens")),
    "a vocabulary beyond the model's": (larger_than_the_model, ("/model", "tokens", "embedding")),
}
_OTHERS = [
    Case("a template file that is not there", train(lambda _: None, "model.chat_template=/nowhere"), ("model.chat_template='/nowhere'",)),
    Case("another tokenizer that is not there", train(lambda _: None, "model.tokenizer=/nowhere"), ("model.tokenizer=/nowhere",)),
    Case("a tokenizer to evaluate with, without an end of a turn", evaluate(no_end), ("/model", "EOS", "eos_token")),
]  # fmt: skip

KINDS = {"a tokenizer to train with": [Case(n, train(s), parts) for n, (s, parts) in _TRAIN.items()] + _OTHERS}
