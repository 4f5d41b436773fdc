"""`python -m redi_lab chat checkpoint=FOLDER`: talk with a model that is asked as its training asked.

Questions come from the terminal, from `prompt=TEXT`, or, whole, from a pipe; then the answer alone is written.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from redi_lab.config.schema.words import ChatWords, read_words
from redi_lab.errors import UserError
from redi_lab.run.adapter import ADAPTER, base_of, find_checkpoint, merged

if TYPE_CHECKING:
    from redi_lab.generation.conversation import Conversation
    from redi_lab.generation.engines import SamplingParams

_NEW = "/new"
_show = partial(print, end="", flush=True)


def run_chat(arguments: Sequence[str]) -> None:
    """Answer one question, or go on until the input ends.

    Raises:
        UserError: the folder cannot be used; most of that is said before torch is imported.
    """
    names, words, further = read_words(ChatWords, arguments)
    if names or further:
        raise UserError(f"chat {[*names, *further][0]}: chat takes KEY=VALUE: redi-lab chat --help")
    folder = find_checkpoint(words.checkpoint)
    base = base_of(folder, words.base) if (folder / ADAPTER).is_file() else None
    if base is None and words.base is not None:
        raise UserError(f"base={words.base}: {folder} is a whole model and no adapter; drop it")
    question = words.prompt if words.prompt is not None or sys.stdin.isatty() else sys.stdin.read()
    if question is not None and not question.strip():
        raise UserError("chat: the question is empty; give prompt=TEXT, or pipe a text")
    chat, sampling = _open(folder, base, words)
    if question is not None:
        chat.ask(question.strip("\n"), sampling, _show)
        print()
        return
    print(f"{folder}; {_NEW} begins another conversation, Ctrl-D ends", flush=True)
    if not chat.has_memory:
        print("It has no chat template: each question stands alone.")
    converse(chat, sampling, lambda: input("> "))


def _open(folder: Path, base: str | None, words: ChatWords) -> tuple[Conversation, SamplingParams]:
    from redi_lab.backbone.weights import check_folder
    from redi_lab.data.tokenization import TraceEncoder
    from redi_lab.generation.checkpoint import Checkpoint
    from redi_lab.generation.conversation import Conversation
    from redi_lab.generation.engines import SamplingParams
    from redi_lab.generation.transformers_engine import TransformersEngine
    from redi_lab.run.record import quieten_libraries
    from redi_lab.run.training_record import DEFAULT_NEW_TOKENS, TrainingRecord, read_record

    quieten_libraries()
    record = read_record(folder)
    if record is None:
        print("How it was trained to be asked is not recorded: questions are put as they are.", file=sys.stderr)
        record = TrainingRecord(prompt_template="{problem}", thinking_prefix="", max_new_tokens=DEFAULT_NEW_TOKENS)
    if "${oc.env:" in record.prompt_template + record.thinking_prefix:
        raise UserError(f"checkpoint={folder}: its prompt holds a variable of the environment that was not recorded")
    if base is None:
        check_folder(folder, "checkpoint")
        model, checkpoint = TransformersEngine().load(folder)
    else:
        model, tokenizer, end_of_turn = merged(folder, base)
        model = model.to(TransformersEngine().settings["device"])
        checkpoint = Checkpoint(model.config, tokenizer, (end_of_turn,))
    encoder = TraceEncoder(checkpoint.tokenizer, record.prompt_template, record.thinking_prefix)
    room = words.max_new_tokens or record.max_new_tokens
    sampling = SamplingParams(words.temperature, words.top_p, room, 1, words.seed)
    return Conversation(model, checkpoint, encoder), sampling


def converse(chat: Conversation, sampling: SamplingParams, read: Callable[[], str]) -> None:
    """Ask what is read until that ends; what goes wrong with one question ends that alone."""
    while True:
        try:
            question = read()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if question.strip() == _NEW:
            chat.turns.clear()
        elif question.strip():
            try:
                answer = chat.ask(question, sampling, _show)
                print("" if answer.finish_reason == "stop" else f" [cut off after {len(answer.token_ids)} tokens]")
            except KeyboardInterrupt:
                print(" [ended; this question is forgotten]")
            except UserError as error:
                print(f"redi_lab: {error}; {_NEW} begins another conversation", file=sys.stderr)
