"""From text to token ids: the prompt, the completion, and exactly one end-of-turn token in the loss.

    encoder = TraceEncoder(tokenizer)
    (sequence,) = encoder.encode_all([("row 1", "1+1?", "2")])
    sequence.input_ids[sequence.prompt_length:]  # what the loss runs over

Prompt and completion are tokenised apart, because that is how the model meets them at inference. The chat template
writes the prompt only: the templates of reasoning models rewrite or drop the thoughts of an assistant turn, so the
completion is taken as the teacher wrote it.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from redi_lab.errors import UserError, in_short

_SENTINEL = "completion"


@dataclass(frozen=True, slots=True, eq=False)
class TokenizedSequence:
    """A prompt with its completion. The loss runs over ``input_ids[prompt_length:]``, end-of-turn token included."""

    id: str
    input_ids: Sequence[int]  # array("i") where there are many: a corpus of long traces holds 10⁹ tokens
    prompt_length: int
    is_chosen: bool = True
    """Whether it is to become likelier; False for a rejected completion."""

    @property
    def completion_length(self) -> int:
        """|y|: the number of tokens that the loss runs over."""
        return len(self.input_ids) - self.prompt_length


@final
class TraceEncoder:
    """Encodes problems and completions for one tokenizer.

    Args:
        tokenizer: a transformers tokenizer. Its chat template, where it has one, writes the prompt.
        prompt_template: text of the user turn; `{problem}` stands for the problem. Newlines at its end part prompt and
            completion where no chat template does, and are left out where one does.
        thinking_prefix: opens the assistant turn, e.g. ``"<think>"``. It belongs to the prompt; a completion that
            begins with it is not given it twice.

    Raises:
        UserError: the template lacks `{problem}`, or no end-of-turn token can be found.
    """

    def __init__(self, tokenizer: Any, prompt_template: str = "{problem}", thinking_prefix: str = "") -> None:
        if "{problem}" not in prompt_template:
            raise UserError(f"data.prompt_template={prompt_template!r} has no {{problem}} in it")
        self.tokenizer = tokenizer
        self.prompt_template = prompt_template
        self.thinking_prefix = thinking_prefix
        self._check_prompts()
        self.end_of_turn_id = find_end_of_turn(tokenizer)

    def prompt_ids(self, problem: str) -> list[int]:
        """Token ids of everything before the completion. Never truncated."""
        return self._prompts([problem])[0]

    def completion_ids(self, completion: str) -> list[int]:
        """Token ids of the completion, closed by exactly one end-of-turn token; empty for an empty completion."""
        return self._completions([completion])[0]

    def encode_all(self, rows: Sequence[tuple[str, str, str]]) -> list[TokenizedSequence]:
        """Encode (id, problem, completion) rows.

        Raises:
            UserError: a prompt or a completion has no tokens; the message names the rows.
        """
        prompts = self._prompts([problem for _, problem, _ in rows])
        completions = self._completions([completion for _, _, completion in rows])
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

    def _prompts(self, problems: Sequence[str]) -> list[list[int]]:
        template = self.prompt_template
        if (
            self.tokenizer.chat_template
        ):  # it ends the turn; a newline is for prompts that the completion follows at once
            template = template.rstrip("\n")
        texts = [template.replace("{problem}", problem) for problem in problems]
        if self.tokenizer.chat_template and texts:  # transformers refuses an empty list of conversations
            turns = [[{"role": "user", "content": text}] for text in texts]
            texts = _render(self.tokenizer, turns, add_generation_prompt=True)
        # A template writes its own beginning-of-text token.
        encoded = self._ids([t + self.thinking_prefix for t in texts], special=not self.tokenizer.chat_template)
        eos = self.tokenizer.eos_token_id  # some tokenizers close every text
        return [ids[:-1] if ids and ids[-1] == eos and not self.tokenizer.chat_template else ids for ids in encoded]

    def _completions(self, completions: Sequence[str]) -> list[list[int]]:
        encoded = self._ids([self._open_text(text) for text in completions], special=False)
        return [[*ids, self.end_of_turn_id] if ids else [] for ids in encoded]

    def _open_text(self, completion: str) -> str:
        """The completion without the thinking prefix, and without end-of-turn tokens of the corpus's own."""
        text, end = completion.removeprefix(self.thinking_prefix), self.tokenizer.decode([self.end_of_turn_id])
        stop = len(text)
        while end:  # templates like to end a turn with "<|im_end|>\n"
            last = stop
            while last > 0 and text[last - 1].isspace():
                last -= 1
            if not text.endswith(end, 0, last):
                break
            stop = last - len(end)
        return text[:stop]

    def _ids(self, texts: list[str], *, special: bool) -> list[list[int]]:
        if not texts:
            return []
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=special)["input_ids"]
        return ids


def _render(tokenizer: Any, turns: Any, *, add_generation_prompt: bool = False) -> Any:
    """What the chat template makes of one conversation or of several.

    Raises:
        UserError: the template fails; it is a program, and may raise anything.
    """
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
    if tokenizer.chat_template:
        turns = [{"role": "user", "content": "prompt"}, {"role": "assistant", "content": _SENTINEL}]
        rendered = str(_render(tokenizer, turns))
        if _SENTINEL not in rendered:
            raise UserError(f"{_name(tokenizer)}: its chat template leaves out what the assistant says; correct it")
        tail = tokenizer(rendered[rendered.rfind(_SENTINEL) + len(_SENTINEL) :], add_special_tokens=False)["input_ids"]
        special = set(tokenizer.all_special_ids) | set(getattr(tokenizer, "added_tokens_decoder", {}))
        for token in tail:
            if token in special:
                return int(token)
    if tokenizer.eos_token_id is None:
        raise UserError(
            f"{_name(tokenizer)} has no EOS token and its chat template closes no turn: set eos_token in its"
            " tokenizer_config.json"
        )
    return int(tokenizer.eos_token_id)


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


def digest_sequences(sequences: Iterable[TokenizedSequence]) -> str:
    """SHA-256 of token ids, prompt lengths and sides, in order."""
    state = hashlib.sha256()
    for sequence in sequences:
        side = "" if sequence.is_chosen else "-"
        state.update(f"{side}{sequence.prompt_length}/{len(sequence.input_ids)};".encode())
        state.update(array("i", sequence.input_ids).tobytes())
    return state.hexdigest()
