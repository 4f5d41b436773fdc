# ruff: noqa: E501 (a case is a line)
"""Tokenizers that cannot close a turn, write a prompt, or belong to the model."""

from __future__ import annotations

import json
from pathlib import Path

from tests.bad_input.checkpoints import Spoil, evaluate, train
from tests.bad_input.world import Case, edit_json

_TURN = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
_WITHOUT_THOUGHTS = "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}{% endfor %}"


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


_BOTH: dict[str, tuple[Spoil, str]] = {
    "no tokenizer at all": (
        no_tokenizer,
        r".*/model: its tokenizer has no tokens; copy the folder again, with tokenizer\.json",
    ),
    "a tokenizer.json that is no JSON": (content("tokenizer.json", "{"), r".*/model.*: .*; .*"),
    "a tokenizer_config.json that is no JSON": (content("tokenizer_config.json", "{"), r".*/model.*: .*; .*"),
    "a template with a syntax error": (template("{% for m in %}"), r".*chat template.*: .*"),
    "a template that raises": (
        template("{{ raise_exception('no system turn, please') }}"),
        r".*chat template.*no system turn, please.*",
    ),
    "a template that calls what is not there": (
        template("{{ messages[0]['content'].nowhere() }}"),
        r".*chat template.*: .*",
    ),
    "a template that leaves the sandbox": (
        template("{{ ''.__class__.__mro__[1].__subclasses__() }}"),
        r".*chat template.*: .*",
    ),
    "a template that never writes the problem": (
        template("<|im_start|>hello<|im_end|>"),
        r".*chat template.*problem.*",
    ),
    "a template that does not end": (
        template("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"),
        r".*chat template cannot be used \(it takes more than \d+ s.*\); .*",
    ),
    "a template that builds gigabytes": (
        template("{{ messages[0]['content'] * 10**9 }}"),
        r".*chat template cannot be used \(.*too much text\); .*",
    ),
    "a vocabulary with a hole": (
        with_holes,
        r".*/model: the tokenizer has 100001 tokens, the model's embedding \d+; give the tokenizer",
    ),
    "no end of a turn": (
        no_end,
        r"the tokenizer .*/model has no EOS token and its chat template closes no turn: set eos_token in",
    ),
}

_TRAIN = [
    Case("a vocabulary beyond the model's", train(larger_than_the_model), r".*/model: the tokenizer has \d+ tokens, the model's embedding \d+; give the tokenizer"),
    Case("a template file that is not there", train(lambda _: None, "model.chat_template=/nowhere"), r"model\.chat_template='/nowhere' is neither a file nor a Jinja template.*"),
    Case("a template that is broken", train(lambda _: None, "model.chat_template='{% for %}'"), r".*chat.template.*"),
    Case("another tokenizer that is not there", train(lambda _: None, "model.tokenizer=/nowhere"), r"model\.tokenizer=/nowhere: .*; .*"),
    Case("a prompt without tokens", train(template("{{ messages[0]['content'][:0] }}")), r".*chat template.*problem.*"),
]  # fmt: skip

KINDS = {
    "a tokenizer to train with": [Case(n, train(s), m) for n, (s, m) in _BOTH.items()] + _TRAIN,
    "a tokenizer to judge with": [Case(n, evaluate(s), m) for n, (s, m) in _BOTH.items()],
}
