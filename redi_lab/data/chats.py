"""Conversations: their turns as one prompt, what a chat template makes of them, and the tokens that mark turns.

Dialogue(["1+1?", "2", "Are you sure?"], system="Be brief.")  # a prompt; str() of it is for people
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import cycle
from typing import Any, final

from redi_lab.data.template_box import why_unusable
from redi_lab.errors import UserError, in_short

SENTINEL = "completion"
"""Stands for a turn where what the template writes around it is looked for."""
_TAG = re.compile(
    r"</?(?!s>|user>|assistant>|system>|human>|bot>)\w+>|.*(think|thought|reason|solution|answer).*", re.I
)
"""Added tokens that a completion may hold: models write their thoughts between them."""


@final
class Dialogue(str):
    """A prompt of several turns. As a string it is their texts, with a blank line between them.

    Wherever a problem is kept as its text it can be kept as this, and `TraceEncoder` puts each turn where it belongs.

    Attributes:
        turns: what the user, the assistant, the user, … says; the last turn is the user's.
        system: what the system message says; None: there is none.
    """

    turns: tuple[str, ...]
    system: str | None

    def __new__(cls, turns: Sequence[str], system: str | None = None) -> Dialogue:
        """Join the turns.

        Raises:
            ValueError: the last turn is not the user's.
        """
        if len(turns) % 2 == 0:
            raise ValueError(f"a dialogue ends with a turn of the user, got {len(turns)} turns")
        made = super().__new__(cls, "\n\n".join(turns if system is None else (system, *turns)))
        made.turns, made.system = tuple(turns), system
        return made

    def __reduce__(self) -> tuple[type[Dialogue], tuple[tuple[str, ...], str | None]]:
        return Dialogue, (self.turns, self.system)

    @property
    def messages(self) -> list[dict[str, str]]:
        """As chat templates take them."""
        said = [{"role": role, "content": text} for role, text in zip(cycle(("user", "assistant")), self.turns)]
        return said if self.system is None else [{"role": "system", "content": self.system}, *said]


def as_dialogue(prompt: str) -> Dialogue:
    """A prompt as it is, or a text as the only turn."""
    return prompt if isinstance(prompt, Dialogue) else Dialogue([prompt])


def render(tokenizer: Any, turns: Any, *, add_generation_prompt: bool = False) -> Any:
    """What the chat template makes of one conversation or of several.

    Raises:
        UserError: the template fails; it is a program, and may raise anything, loop, or build gigabytes.
    """
    template = tokenizer.chat_template
    if isinstance(template, str) and (danger := why_unusable(template)) is not None:
        raise UserError(
            f"{name_of(tokenizer)}: its chat template cannot be used ({danger}); correct it, or train with another,"
            " model.chat_template=FILE"
        )
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    except Exception as error:
        raise UserError(
            f"{name_of(tokenizer)}: its chat template fails ({type(error).__name__}: {in_short(error)}); correct it,"
            " or train with another, model.chat_template=FILE"
        ) from error


def name_of(tokenizer: Any) -> str:
    """How errors call it."""
    return f"the tokenizer {getattr(tokenizer, 'name_or_path', '')}".rstrip()


def find_end_of_turn(tokenizer: Any) -> int:
    """The token that closes an assistant turn: what the chat template writes after it, else the tokenizer's EOS.

    Raises:
        UserError: the tokenizer has neither.
    """
    tail = tokenizer(_rendered_turn(tokenizer).rpartition(SENTINEL)[2], add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    found = next((token for token in tail if token in special), tokenizer.eos_token_id)
    if found is None:
        raise UserError(
            f"{name_of(tokenizer)} has no EOS token and its chat template closes no turn: set eos_token in its"
            " tokenizer_config.json"
        )
    return int(found)


def find_turn_markup(tokenizer: Any) -> frozenset[int]:
    """Tokens that open and close texts and turns, which no text of the data may become.

    They are the special tokens, and the added ones that the chat template writes around turns (`<|User|>` is not
    special in some vocabularies). Tags of thoughts do not count, special or not: models generate `</think>`.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {})
    written = tokenizer(_rendered_turn(tokenizer), add_special_tokens=False)["input_ids"]
    special = {*tokenizer.all_special_ids, *(token for token, text in added.items() if text.special)}
    candidates = special | set(written).intersection(added)
    texts = {token: str(tokenizer.convert_ids_to_tokens(token)).strip() for token in candidates}
    marks = {token for token, text in texts.items() if text and not text.isalnum() and not _TAG.fullmatch(text)}
    # Where unknown characters have a token, it marks no border, unless it also ends texts.
    marks -= {getattr(tokenizer, "unk_token_id", None)}
    return frozenset(marks | {token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None})


def _rendered_turn(tokenizer: Any) -> str:
    """A question and an answer as the chat template writes them; empty where there is no template."""
    if not tokenizer.chat_template:
        return ""
    turns = [{"role": "user", "content": "prompt"}, {"role": "assistant", "content": SENTINEL}]
    rendered = str(render(tokenizer, turns))
    if SENTINEL not in rendered:
        raise UserError(f"{name_of(tokenizer)}: its chat template leaves out what the assistant says; correct it")
    return rendered
