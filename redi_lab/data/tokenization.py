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
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from operator import add
from typing import Any, final

from redi_lab.data.chats import SENTINEL, Dialogue, as_dialogue, find_end_of_turn, find_turn_markup, name_of, render
from redi_lab.errors import UserError


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
        self._outlines: dict[tuple[int, bool], tuple[str, int]] = {}

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
                f"{name_of(self.tokenizer)} does not say which characters its tokens stand for: give the model a"
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
        prompt = render(self.tokenizer, [{"role": "user", "content": SENTINEL}], add_generation_prompt=True)
        if SENTINEL not in prompt:
            raise UserError(f"{name_of(self.tokenizer)}: its chat template leaves out the problem; correct it")
        opening = self.thinking_prefix.strip()
        if opening and prompt.rstrip().endswith(opening):
            raise UserError(
                f"thinking_prefix={self.thinking_prefix!r}: the chat template of {name_of(self.tokenizer)} opens the"
                " turn with it already; set data.thinking_prefix='' and eval.thinking_prefix=''"
            )

    def _prompts(self, problems: Sequence[str], rows: Sequence[str]) -> list[list[int]]:
        texts = self._texts(problems)
        encoded = self._read(texts)
        for place, (ids, problem) in enumerate(zip(encoded, problems, strict=True)):
            outline, num_marks = self._outline(as_dialogue(problem))
            if self._count(ids) != num_marks:
                encoded[place] = self._prompt_of_text(texts[place], problem, rows[place], ids, outline, num_marks)
        return encoded

    def _outline(self, dialogue: Dialogue) -> tuple[str, int]:
        """What is written around this many turns, with sentinels in their places, and how much markup that has."""
        shape = (len(dialogue.turns), dialogue.system is not None)
        if shape not in self._outlines:
            empty = Dialogue([SENTINEL] * shape[0], SENTINEL if shape[1] else None)
            (text,) = self._texts([empty])
            self._outlines[shape] = text, self._count(self._read([text])[0])
        return self._outlines[shape]

    def _texts(self, problems: Sequence[str]) -> list[str]:
        """All that stands before the completions."""
        has_chat, template = bool(self.tokenizer.chat_template), self.prompt_template
        tail = template[len(template.rstrip()) :]
        if has_chat:  # ends the turn; a line break is for prompts that the completion follows
            template = template.rstrip("\n")
        dialogues = []
        for dialogue in map(as_dialogue, problems):
            first, *further = dialogue.turns
            dialogues.append(Dialogue([template.replace("{problem}", first), *further], dialogue.system))
        if not has_chat:
            return [
                "\n".join(turn["content"] for turn in one.messages)
                + (tail if len(one.turns) > 1 else "")  # the first turn has it from the template
                + self.thinking_prefix
                for one in dialogues
            ]
        if not dialogues:  # transformers refuses an empty list of conversations
            return []
        texts = render(self.tokenizer, [one.messages for one in dialogues], add_generation_prompt=True)
        return [text + self.thinking_prefix for text in texts]

    def _read(self, texts: list[str], *, as_text: bool = False) -> list[list[int]]:
        """Token ids of the beginnings of sequences."""
        has_template = bool(self.tokenizer.chat_template)
        encoded = self._ids(texts, special=not has_template, as_text=as_text)  # a template writes its own first token
        eos = self.tokenizer.eos_token_id  # some tokenizers close every text
        return [ids[:-1] if ids and ids[-1] == eos and not has_template else ids for ids in encoded]

    def _prompt_of_text(
        self, text: str, problem: str, row: str, ids: list[int], outline: str, num_marks: int
    ) -> list[int]:
        """The prompt with its turns read as text, between what the template writes around them."""
        turns = [turn["content"] for turn in as_dialogue(problem).messages]
        if all(self._markup.isdisjoint(turn_ids) for turn_ids in self._ids(turns)):
            return ids  # the template counts turns otherwise for it
        first, *borders = outline.split(SENTINEL, len(turns))
        forms = [turns, [turn.strip() for turn in turns]]  # templates like to strip what is said
        written = next((form for form in forms if first + "".join(map(add, form, borders)) == text), None)
        if written is None or len(borders) < len(turns):
            raise self._refusal(row, "problem", ids)
        pieces = list(self._read([first])[0]) if first else []
        for turn, border in zip(written, borders, strict=True):
            read = self._as_text(turn, row, "problem", self._ids([turn])[0])
            if not pieces:  # the first piece gets the token that opens a text
                read = self._read([turn], as_text=True)[0]
            pieces += [*read, *(self._ids([border])[0] if border else ())]
        if self._count(pieces) != num_marks:
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
            f"{row}: its {what} holds {', '.join(map(str, marks))}, which {name_of(self.tokenizer)} reads as the border"
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
