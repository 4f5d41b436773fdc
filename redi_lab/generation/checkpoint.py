"""What every engine reads from a checkpoint folder, except its weights: tokenizer, end tokens, positions, precision.

checkpoint = Checkpoint.open(folder)
checkpoint.check_lengths(prompts, max_new_tokens)
completion = checkpoint.completion(problem_index, sample_index, generated_ids)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from transformers import AutoConfig, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from redi_lab.backbone.hub import is_empty
from redi_lab.errors import UserError, in_short
from redi_lab.generation.engines import Completion


@final
@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint without its weights.

    Attributes:
        config: The model's configuration.
        tokenizer: Its tokenizer.
        stops: End tokens, at least one.
    """

    config: Any
    tokenizer: Any
    stops: tuple[int, ...]

    @classmethod
    def open(cls, path: Path) -> Checkpoint:
        """Read a folder, from this disk alone and without running code that it brings.

        Raises:
            UserError: The folder cannot be loaded or names no end token.
        """
        with loading(path):
            config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
            tokenizer = _load_tokenizer(path)
            generation = GenerationConfig.from_pretrained(path) if (path / "generation_config.json").is_file() else None
        if is_empty(tokenizer):
            raise UserError(
                f"checkpoint {path}: its tokenizer has no tokens; copy the folder again, with tokenizer.json"
            )
        for source in (generation, config.get_text_config(), tokenizer):  # generation_config.json may name several
            found = getattr(source, "eos_token_id", None)
            if found is not None:
                return cls(config, tokenizer, tuple(found) if isinstance(found, list | tuple) else (int(found),))
        raise UserError(f"checkpoint {path} names no end token: set eos_token_id in its generation_config.json")

    @property
    def max_positions(self) -> int | None:
        """Longest sequence of the model; None if its configuration does not say."""
        positions: int | None = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return positions

    @property
    def dtype(self) -> str:
        """The precision that it was saved in, such as "bfloat16".

        Raises:
            UserError: Its configuration does not say.
        """
        dtype = getattr(self.config.get_text_config(), "dtype", None) or getattr(self.config, "dtype", None)
        if dtype is None:
            raise UserError("engine.dtype=auto: the checkpoint's config.json names no dtype; set engine.dtype")
        return str(dtype).removeprefix("torch.")

    def check_lengths(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, max_positions: int | None = None
    ) -> None:
        """Refuse what would run over the model's positions rather than cut it.

        Args:
            prompts: Token ids of each prompt.
            max_new_tokens: Longest completion.
            max_positions: Longest sequence of the engine, where it allows less than the model.

        Raises:
            UserError: A prompt is empty, or too long with its new tokens.
        """
        limit = min(filter(None, (self.max_positions, max_positions)), default=None)
        for index, prompt in enumerate(prompts):
            if not prompt:
                raise UserError(f"prompt {index} is empty: the model needs at least one token to start from")
            length = len(prompt) + max_new_tokens
            if limit is not None and length > limit:
                raise UserError(
                    f"prompt {index} has {len(prompt)} tokens and sampling.max_new_tokens is {max_new_tokens}: together"
                    f" {length}, more than the model's {limit} positions; lower max_new_tokens"
                )

    def completion(
        self, problem: int, sample: int, generated: Sequence[int], logps: Sequence[float] | None = None
    ) -> Completion:
        """Decode what was generated, up to the first end token.

        Args:
            problem: Position of the prompt in the request.
            sample: Index of the sample.
            generated: Token ids; anything may follow the end token.
            logps: The log-prob of each, or None.
        """
        end = next((position for position, token in enumerate(generated) if token in self.stops), None)
        length = len(generated) if end is None else end + 1
        token_ids = tuple(generated[:length])
        text: str = self.tokenizer.decode(token_ids, skip_special_tokens=True)
        kept = None if logps is None else tuple(logps[:length])
        return Completion(problem, sample, token_ids, text, "length" if end is None else "stop", kept)


@contextmanager
def loading(path: Path) -> Iterator[None]:
    """Turn what transformers raises for an unusable folder into a one-line error.

    Raises:
        UserError: The folder cannot be loaded.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # transformers raises errors of any kind for a damaged folder
        raise UserError(
            f"checkpoint {path} cannot be loaded as a Hugging Face folder: {in_short(error)}; copy or save it again"
        ) from error


def content_stamp(path: Path) -> tuple[object, ...]:
    """Changes when a file of the folder is written: a model loaded from it before is then stale."""
    files = sorted(file for file in path.iterdir() if file.is_file())
    return (path.absolute(), *((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


def _load_tokenizer(path: Path) -> Any:
    """The tokenizer exactly as `tokenizer.json` describes it, where the folder names no special class.

    AutoTokenizer of transformers 5 goes by the model's type instead: it would read a plain word-level tokenizer beside
    a Qwen2 model as Qwen's byte-level one, and decode without spaces.
    """
    settings = path / "tokenizer_config.json"
    named = json.loads(settings.read_text(encoding="utf-8")).get("tokenizer_class") if settings.is_file() else None
    is_plain = named in ("TokenizersBackend", "PreTrainedTokenizerFast") and (path / "tokenizer.json").is_file()
    loader = PreTrainedTokenizerFast if is_plain else AutoTokenizer
    return loader.from_pretrained(path, trust_remote_code=False, local_files_only=True)
