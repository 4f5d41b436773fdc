"""A conversation with a model, put as its training put a problem, whose answers come word by word.

chat = Conversation(model, checkpoint, TraceEncoder(checkpoint.tokenizer, template))
answer = chat.ask("76 , first add 72 ?", SamplingParams(0.0, 1.0, 96, 1, 0), write=print)
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any, final

import torch
from transformers import GenerationConfig, LogitsProcessorList, TextStreamer

from redi_lab.data.chats import Dialogue
from redi_lab.data.tokenization import TraceEncoder
from redi_lab.errors import UserError
from redi_lab.generation.checkpoint import Checkpoint
from redi_lab.generation.engines import Completion, SamplingParams
from redi_lab.generation.sampling import SeededSampler, uniforms


@final
class Conversation:
    """What was said, and how to go on. Without a chat template each question stands alone.

    Args:
        model: in evaluation mode; its generation configuration is replaced.
        checkpoint: its tokenizer and end tokens.
        encoder: how training put a problem; a question is put likewise.
    """

    def __init__(self, model: Any, checkpoint: Checkpoint, encoder: TraceEncoder) -> None:
        self._model, self._checkpoint, self._encoder = model, checkpoint, encoder
        self._tokenizer = checkpoint.tokenizer
        self.has_memory = bool(self._tokenizer.chat_template)
        self.turns: list[str] = []
        pad, stops = self._tokenizer.pad_token_id, list(checkpoint.stops)
        model.generation_config = GenerationConfig(eos_token_id=stops, pad_token_id=stops[0] if pad is None else pad)

    def ask(self, question: str, sampling: SamplingParams, write: Callable[[str], None]) -> Completion:
        """Answer a question, as an evaluation with this sampling would; both are then part of the conversation.

        Args:
            question: any text.
            sampling: of one sample; `max_new_tokens` is lowered to what the context leaves.
            write: called with pieces of the answer, without control characters.

        Raises:
            UserError: no room is left, or what was said holds turn markup that cannot be read as text.
        """
        # The encoder puts the first question as training put a problem; those behind it are put alike.
        said = self._encoder.prompt_template.rstrip("\n").replace("{problem}", question) if self.turns else question
        prompt = self._encoder.prompt_ids(Dialogue([*self.turns, said]), "the conversation")
        room = min(sampling.max_new_tokens, (self._checkpoint.max_positions or 2**31) - len(prompt))
        if room < 1:
            raise UserError(f"the conversation has {len(prompt)} tokens, as many as the model reads")
        drawn = uniforms(sampling.seed, prompt, 0, room) if sampling.temperature > 0 else None
        numbers = None if drawn is None else torch.from_numpy(drawn)[None].to(self._model.device)
        sampler = SeededSampler(numbers, len(prompt), sampling.temperature, sampling.top_p)
        ids = torch.tensor([prompt], device=self._model.device)
        tokens = self._model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            logits_processor=LogitsProcessorList([sampler]),
            max_new_tokens=room,
            streamer=Words(self._tokenizer, write),
        )
        answer = self._checkpoint.completion(0, 0, tokens[0, len(prompt) :].tolist())
        if self.has_memory:
            self.turns += [said, self._encoder.thinking_prefix + answer.text]
        return answer


@final
class Words(TextStreamer):
    """Passes whole words on as they come, without what could steer a terminal: a model wrote them."""

    def __init__(self, tokenizer: Any, write: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._write = write

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Pass a piece on."""
        self._write("".join(c for c in text if c in "\n\t" or unicodedata.category(c) != "Cc"))
