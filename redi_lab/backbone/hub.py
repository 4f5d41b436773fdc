"""Loading from a local folder, the hub, or its cache: remote code off, and quick to say what is missing."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

from redi_lab.errors import UserError

TIMEOUT_S = 5.0


def load_tokenizer(path: str, revision: str | None = None) -> Any:
    """The tokenizer at a hub id or in a local folder.

    Raises:
        UserError: see `from_hub`.
    """
    return from_hub(AutoTokenizer, path, revision)


def from_hub(auto_class: Any, path: str, revision: str | None, **options: Any) -> Any:
    """`auto_class.from_pretrained` without remote code.

    Args:
        auto_class: AutoConfig, AutoTokenizer or AutoModelForCausalLM of transformers.
        path: a local folder, or a hub id.
        revision: branch, tag or commit of a hub id.
        **options: passed on.

    Raises:
        UserError: nothing can be loaded from there; the message says how to give a local folder.
    """
    options |= {"revision": revision, "trust_remote_code": False}
    unreachable = None if Path(path).is_dir() else _why_unreachable(path, revision)
    try:
        return auto_class.from_pretrained(path, local_files_only=unreachable is not None, **options)
    except (OSError, ValueError, KeyError) as error:
        what = auto_class.__name__.removeprefix("Auto").removesuffix("ForCausalLM").lower()
        reason = unreachable or str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(
            f"model.path={path}: cannot load its {what}: {reason}; give a local Hugging Face folder with"
            " model.path=FOLDER (config.json, *.safetensors, tokenizer files)"
        ) from error


@lru_cache
def _why_unreachable(path: str, revision: str | None) -> str | None:
    """One short request, since transformers itself retries for half a minute without network; None if it is there."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        HfApi().model_info(path, revision=revision, timeout=TIMEOUT_S)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return "it is no local folder, and the Hugging Face hub has no such model, or not for you (hf auth login)"
    except Exception as error:  # name resolution, proxy, TLS, time-out, offline mode: each HTTP library has its own
        line = f"{type(error).__name__}: {error}".split("\n")[0]
        return f"it is no local folder, not in the hub's cache, and the hub cannot be reached ({line})"
    return None
