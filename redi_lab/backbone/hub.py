"""Loading from a local folder, the hub, or its cache: remote code off, and quick to say what is missing."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from redi_lab.errors import UserError, in_short
from redi_lab.hub import ask_hub

_MODEL_FILES = ("*.json", "*.safetensors", "*.jinja", "*.txt", "*.model")  # no pickles, no code


def load_tokenizer(path: str, revision: str | None = None, *, key: str = "model.path") -> Any:
    """The tokenizer at a hub id or in a local folder.

    Raises:
        UserError: see `from_hub`; or it is empty.
    """
    tokenizer = from_hub(AutoTokenizer, path, revision, key=key)
    if is_empty(tokenizer):
        raise UserError(f"{key}={path}: its tokenizer has no tokens; copy the folder again, with tokenizer.json")
    return tokenizer


def local_folder(path: str, revision: str | None = None, *, key: str = "model.path") -> Path:
    """The folder of a model: `path` itself, or that of the hub's cache, into which missing files are downloaded.

    Raises:
        UserError: neither is there.
    """
    if Path(path).is_dir():
        return Path(path).absolute()
    from huggingface_hub import snapshot_download

    unreachable = _why_unreachable(path, revision)
    try:
        found = snapshot_download(
            path, revision=revision, allow_patterns=list(_MODEL_FILES), local_files_only=unreachable is not None
        )
    except Exception as error:  # each HTTP library has its own
        raise UserError(
            f"{key}={path}: cannot be read: {unreachable or in_short(error)}; give a local Hugging Face folder"
        ) from error
    return Path(found)


def is_empty(tokenizer: Any) -> bool:
    """Whether it has nothing but special tokens, as transformers makes it for a folder without tokenizer files."""
    return len(tokenizer) <= len(tokenizer.all_special_ids)


def from_hub(auto_class: Any, path: str, revision: str | None, *, key: str = "model.path", **options: Any) -> Any:
    """`auto_class.from_pretrained` without remote code.

    Args:
        auto_class: AutoConfig, AutoTokenizer or AutoModelForCausalLM of transformers.
        path: a local folder, or a hub id.
        revision: branch, tag or commit of a hub id.
        key: of the configuration, for the message.
        **options: passed on.

    Raises:
        UserError: nothing can be loaded from there; the message says how to give a local folder.
    """
    options |= {"revision": revision, "trust_remote_code": False}
    unreachable = None if Path(path).is_dir() else _why_unreachable(path, revision)
    try:
        return auto_class.from_pretrained(path, local_files_only=unreachable is not None, **options)
    except Exception as error:  # a damaged folder makes transformers raise exceptions of any kind
        what = auto_class.__name__.removeprefix("Auto").removesuffix("ForCausalLM").lower()
        raise UserError(
            f"{key}={path}: cannot load its {what}: {unreachable or in_short(error)}; give a local Hugging Face folder"
            f" with {key}=FOLDER (config.json, *.safetensors, tokenizer files)"
        ) from error


@lru_cache
def _why_unreachable(path: str, revision: str | None) -> str | None:
    """One short request, since transformers itself retries for half a minute without network; None if it is there."""
    answer = ask_hub("model", path, revision)
    if answer.commit is not None:
        return None
    if answer.is_missing:
        return f"it is not a local folder, and {answer.reason}"
    return f"it is not a local folder, not in the hub's cache, and the hub cannot be reached ({answer.reason})"
