"""From text to token ids: the prompt, the completion, and exactly one end-of-turn token in the loss.

    encoder = TraceEncoder(tokenizer)
    (sequence,) = encoder.encode_all([("row 1", "1+1?", "2")])
    sequence.input_ids[sequence.prompt_length:]  # what the loss runs over

Prompt and completion are tokenised apart, because that is how the model meets them at inference. The chat template
writes the prompt only: the templates of reasoning models rewrite or drop the thoughts of an assistant turn, so the
completion is taken as the teacher wrote it.

Turns are opened and closed by the template and by this module alone. `<|im_end|>` within a problem or a completion is
text, read as the characters that it is made of; every row is checked, and refused where its tokenizer cannot do that.
"""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

from redi_lab.data.template_box import why_unusable
from redi_lab.errors import UserError, in_short

_SENTINEL = "completion"
_TAG = re.compile(
    r"</?(?!s>|user>|assistant>|system>|human>|bot>)\w+>|.*(think|thought|reason|solution|answer).*", re.I
)
"""Added tokens that a completion may hold: models write their thoughts between them."""


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedSequence:
    """A prompt with its completion. The loss runs over ``input_ids[prompt_length:]``, end-of-turn token included."""

    id: str
    input_ids: Sequence[int]  # array("i") where there are many: a corpus of long traces holds 10⁹ tokens
    prompt_length: int
    is_chosen: bool = True
    """Whether it is to become likelier; False for a rejected completion."""
    weight: float = 1.0
    """Factor on its term of the loss, at least 0; both sides of a pair have that of the pair."""
    pass_rate: float | None = None
    """Share of right traces among the graded ones of its problem; None if the source does not say."""
    token_weights: Sequence[float] | None = None
    """Factor on the log-prob of each completion token, of any sign but not all 0; None: they are 1."""

    @property
    def completion_length(self) -> int:
        """|y|: the number of tokens that the loss runs over."""
        return len(self.input_ids) - self.prompt_length

    @property
    def weighted_length(self) -> float:
        """|y| of a loss: Σ|c_t| of the tokens' weights, which is the number of completion tokens where they are 1."""
        return self.completion_length if self.token_weights is None else math.fsum(map(abs, self.token_weights))


@final
class TraceEncoder:
    """Encodes problems and completions for one tokenizer.

    Args:
        tokenizer: a transformers tokenizer. Its chat template, where it has one, writes the prompt.
        prompt_template: text of the user turn; `{problem}` stands for the problem. Newlines at its end are left out
            where there is a chat template.
        thinking_prefix: opens the assistant turn, e.g. ``"<think>"``; a completion that has it is not given it twice.
        rejected_prompt_template: that before rejected completions; None: the same.

    Attributes:
        rejected: the encoder of rejected completions; this one, unless they have a template of their own.

    Raises:
        UserError: a template is missing `{problem}`, or no end-of-turn token can be found.
    """

    def __init__(
        self,
        tokenizer: Any,
        prompt_template: str = "{problem}",
        thinking_prefix: str = "",
        rejected_prompt_template: str | None = None,
    ) -> None:
        if "{problem}" not in prompt_template:
            raise UserError(f"data.prompt_template={prompt_template!r} has no {{problem}} in it")
        self.rejected = self
        if rejected_prompt_template not in (None, prompt_template):
            self.rejected = TraceEncoder(tokenizer, rejected_prompt_template, thinking_prefix)
        self.tokenizer = tokenizer
        self.prompt_template = prompt_template
        self.thinking_prefix = thinking_prefix
        self._check_prompts()
        self.end_of_turn_id = find_end_of_turn(tokenizer)
        self._end = str(tokenizer.decode([self.end_of_turn_id]))
        self._markup = find_turn_markup(tokenizer) | {self.end_of_turn_id}
        self._added = frozenset(getattr(tokenizer, "added_tokens_decoder", {})) - self._markup
        (self._empty_prompt,) = self._texts([_SENTINEL])
        self._num_marks = self._count(self._read([self._empty_prompt])[0])

    def prompt_ids(self, problem: str, row: str = "a problem") -> list[int]:
        """Token ids of everything before the completion. Never truncated.

        Raises:
            UserError: the problem of `row` holds turn markup that cannot be read as text.
        """
        return self._prompts([problem], [row])[0]

    def completion_ids(self, completion: str, row: str = "a completion") -> list[int]:
        """Token ids of the completion, closed by exactly one end-of-turn token; empty for an empty completion.

        Raises:
            UserError: the completion of `row` holds turn markup that cannot be read as text.
        """
        return self._completions([completion], [row])[0]

    def encode_all(self, rows: Sequence[tuple[str, str, str]]) -> list[TokenizedSequence]:
        """Encode (id, problem, completion) rows.

        Raises:
            UserError: a prompt or a completion has no tokens, or turn markup that cannot be read as text; the message
                names the rows.
        """
        names = [name for name, _, _ in rows]
        prompts = self._prompts([problem for _, problem, _ in rows], names)
        completions = self._completions([completion for _, _, completion in rows], names)
        for what, encoded in (("prompt", prompts), ("completion", completions)):
            empty = [row[0] for row, ids in zip(rows, encoded, strict=True) if not ids]
            if empty:
                raise UserError(
                    f"{len(empty)} rows have a {what} of zero tokens, which nothing can be learnt from; remove them:"
                    f" {', '.join(empty[:10])}{', …' if len(empty) > 10 else ''}"
                )
        return [
            TokenizedSequence(row[0], array("i", prompt + completion), len(prompt))
            for row, prompt, completion in zip(rows, prompts, completions, strict=True)
        ]

    def last_characters(self, completions: Sequence[str]) -> list[list[int]]:
        """Where in each completion, as it was given, the last character of each token of `completion_ids` lies.

        Tokens that share one character all lie there, and the end-of-turn token where the text ends.

        Args:
            completions: none of zero tokens.

        Raises:
            UserError: the tokenizer does not know.
        """
        if not self.tokenizer.is_fast:
            raise UserError(
                f"{_name(self.tokenizer)} does not say which characters its tokens stand for: give the model a"
                " tokenizer.json, or set data.token_weights=none"
            )
        texts = [self._open_text(text) for text in completions]
        options = {"add_special_tokens": False, "return_offsets_mapping": True}
        read = self.tokenizer(texts, **options)
        places = []
        for completion, text, ids, offsets in zip(
            completions, texts, read["input_ids"], read["offset_mapping"], strict=True
        ):
            if not self._markup.isdisjoint(ids):  # as in `_completions`
                offsets = self.tokenizer(text, split_special_tokens=True, **options)["offset_mapping"]
            before = len(self.thinking_prefix) if completion.startswith(self.thinking_prefix) else 0
            places.append([before + end - 1 for end in (*(max(end, 1) for _, end in offsets), len(text))])
        return places

    def _check_prompts(self) -> None:
        if not self.tokenizer.chat_template:
            return
        prompt = _render(self.tokenizer, [{"role": "user", "content": _SENTINEL}], add_generation_prompt=True)
        if _SENTINEL not in prompt:
            raise UserError(f"{_name(self.tokenizer)}: its chat template leaves out the problem; correct it")
        opening = self.thinking_prefix.strip()
        if opening and prompt.rstrip().endswith(opening):
            raise UserError(
                f"thinking_prefix={self.thinking_prefix!r}: the chat template of {_name(self.tokenizer)} opens the turn"
                " with it already; set data.thinking_prefix='' and eval.thinking_prefix=''"
            )

    def _prompts(self, problems: Sequence[str], rows: Sequence[str]) -> list[list[int]]:
        texts = self._texts(problems)
        encoded = self._read(texts)
        for place, ids in enumerate(encoded):
            if self._count(ids) != self._num_marks:
                encoded[place] = self._prompt_of_text(texts[place], problems[place], rows[place], ids)
        return encoded

    def _texts(self, problems: Sequence[str]) -> list[str]:
        """All that stands before the completions."""
        template = self.prompt_template
        if self.tokenizer.chat_template:  # ends the turn; a line break is for prompts that the completion follows
            template = template.rstrip("\n")
        texts = [template.replace("{problem}", problem) for problem in problems]
        if self.tokenizer.chat_template and texts:  # transformers refuses an empty list of conversations
            turns = [[{"role": "user", "content": text}] for text in texts]
            texts = _render(self.tokenizer, turns, add_generation_prompt=True)
        return [text + self.thinking_prefix for text in texts]

    def _read(self, texts: list[str], *, as_text: bool = False) -> list[list[int]]:
        """Token ids of the beginnings of sequences."""
        has_template = bool(self.tokenizer.chat_template)
        encoded = self._ids(texts, special=not has_template, as_text=as_text)  # a template writes its own first token
        eos = self.tokenizer.eos_token_id  # some tokenizers close every text
        return [ids[:-1] if ids and ids[-1] == eos and not has_template else ids for ids in encoded]

    def _prompt_of_text(self, text: str, problem: str, row: str, ids: list[int]) -> list[int]:
        """The prompt with the problem read as text, between what the template writes before and behind it."""
        if self._markup.isdisjoint(self._ids([problem])[0]):
            return ids  # the template counts turns otherwise for it
        before, _, behind = self._empty_prompt.partition(_SENTINEL)
        inner = text[len(before) : len(text) - len(behind)]
        if before + inner + behind != text or inner not in (problem, problem.strip()):
            raise self._refusal(row, "problem", ids)
        written = self._as_text(inner, row, "problem", self._ids([inner])[0])
        if not before:  # the first piece gets the token that opens a text
            written = self._read([inner], as_text=True)[0]
        pieces = [*(self._read([before])[0] if before else ()), *written, *(self._ids([behind])[0] if behind else ())]
        if self._count(pieces) != self._num_marks:
            raise self._refusal(row, "problem", ids)
        return pieces

    def _completions(self, completions: Sequence[str], rows: Sequence[str]) -> list[list[int]]:
        texts = [self._open_text(text) for text in completions]
        encoded = self._ids(texts)
        for place, ids in enumerate(encoded):
            if not self._markup.isdisjoint(ids):
                encoded[place] = self._as_text(texts[place], rows[place], "completion", ids)
        return [[*ids, self.end_of_turn_id] if ids else [] for ids in encoded]

    def _as_text(self, text: str, row: str, what: str, ids: list[int]) -> list[int]:
        """Token ids of a text whose special tokens are spelt out; `ids` are those with them."""
        try:
            (spelt,) = self._ids([text], as_text=True)
        except (ValueError, NotImplementedError):
            raise self._refusal(row, what, ids) from None
        kept = [[token for token in some if token in self._added] for some in (ids, spelt)]
        if not self._markup.isdisjoint(spelt) or kept[0] != kept[1]:  # not special; or thoughts are spelt out, too
            raise self._refusal(row, what, ids)
        return spelt

    def _refusal(self, row: str, what: str, ids: list[int]) -> UserError:
        marks = self.tokenizer.convert_ids_to_tokens(sorted(self._markup.intersection(ids)))
        return UserError(
            f"{row}: its {what} holds {', '.join(map(str, marks))}, which {_name(self.tokenizer)} reads as the border"
            " of a turn and cannot read as text; remove it from the row"
        )

    def _count(self, ids: list[int]) -> int:
        return sum(map(self._markup.__contains__, ids))

    def _open_text(self, completion: str) -> str:
        """The completion without the thinking prefix, and without the end-of-turn tokens that the corpus gave it."""
        text, end = completion.removeprefix(self.thinking_prefix), self._end
        kept = stop = len(text)
        while end.strip():
            while stop and text[stop - 1].isspace():  # templates like to end a turn with "<|im_end|>\n"
                stop -= 1
            if not text.endswith(end, 0, stop):
                break
            kept = stop = stop - len(end)
        return text[:kept]

    def _ids(self, texts: list[str], *, special: bool = False, as_text: bool = False) -> list[list[int]]:
        if not texts:
            return []
        options = {"add_special_tokens": special, "split_special_tokens": as_text}
        ids: list[list[int]] = self.tokenizer(texts, **options)["input_ids"]
        return ids


def _render(tokenizer: Any, turns: Any, *, add_generation_prompt: bool = False) -> Any:
    """What the chat template makes of one conversation or of several.

    Raises:
        UserError: the template fails; it is a program, and may raise anything, loop, or build gigabytes.
    """
    template = tokenizer.chat_template
    if isinstance(template, str) and (danger := why_unusable(template)) is not None:
        raise UserError(
            f"{_name(tokenizer)}: its chat template cannot be used ({danger}); correct it, or train with another,"
            " model.chat_template=FILE"
        )
    try:
        return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=add_generation_prompt)
    except Exception as error:
        raise UserError(
            f"{_name(tokenizer)}: its chat template fails ({type(error).__name__}: {in_short(error)}); correct it,"
            " or train with another, model.chat_template=FILE"
        ) from error


def _name(tokenizer: Any) -> str:
    return f"the tokenizer {getattr(tokenizer, 'name_or_path', '')}".rstrip()


def find_end_of_turn(tokenizer: Any) -> int:
    """The token that closes an assistant turn: what the chat template writes after it, else the tokenizer's EOS.

    Raises:
        UserError: the tokenizer has neither.
    """
    tail = tokenizer(_rendered_turn(tokenizer).rpartition(_SENTINEL)[2], add_special_tokens=False)["input_ids"]
    special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
    found = next((token for token in tail if token in special), tokenizer.eos_token_id)
    if found is None:
        raise UserError(
            f"{_name(tokenizer)} has no EOS token and its chat template closes no turn: set eos_token in its"
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
    turns = [{"role": "user", "content": "prompt"}, {"role": "assistant", "content": _SENTINEL}]
    rendered = str(_render(tokenizer, turns))
    if _SENTINEL not in rendered:
        raise UserError(f"{_name(tokenizer)}: its chat template leaves out what the assistant says; correct it")
    return rendered
