"""Values as Hydra's override grammar reads them: text with blanks, brackets or letters beyond ASCII is quoted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

_PATH_KEY = re.compile(
    r"\+{0,2}(paths\.\w+|[\w.]+\.(path|development_path|prompt_file|python)|checkpoint|init_from"
    r"|(curation|model)\.tokenizer|loss\.reference|sequential\.better_than)"
)
_SWEPT = re.compile(r"(choice|range|interval|glob|sort|shuffle)\(.*\)")


def quoted(text: str) -> str:
    """The text in single quotes; a backslash is special to Hydra only in front of a quote."""
    return "'" + re.sub(r"(\\*)('|$)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


def quote_paths(overrides: Sequence[str]) -> list[str]:
    """Overrides with every path in quotes, so that `data.path=träces [1].jsonl` means that very file.

    Left as they are: null, what is quoted already, and several values for one key (`-m data.path=a,b`), unless a file
    is named so.
    """
    return [_quote_path(override) for override in overrides]


def _quote_path(override: str) -> str:
    key, equals, value = override.partition("=")
    if not equals or not _PATH_KEY.fullmatch(key) or value in ("", "null", "???") or value[0] in "'\"":
        return override
    is_swept = _SWEPT.fullmatch(value) or "," in value
    return override if is_swept and not Path(value).exists() else f"{key}={quoted(value)}"
