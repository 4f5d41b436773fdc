"""Passwords and tokens stay out of records: found in configurations, hidden in what is shown.

Two kinds of environment variables are hidden: those whose name says that they are secret, wherever their value stands;
and those that a configuration interpolates, `${oc.env:NAME}`, unless they are known to be harmless. The latter appear
in records as that interpolation, so that a recorded command still works where the variable is set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

_PASSWORD_IN_URL = re.compile(r"(://[^:/@\s]*):(?!\d+/)[^\s]*@")  # HOST:PORT/ is none, and a password may hold a /
_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|(^|_)PASS|(^|_)PWD|KEY|CREDENTIALS)$")
_PUBLIC_NAME = re.compile(
    r"HOME|USER|LOGNAME|HOST|HOSTNAME|PWD|LANG|TMPDIR|CUDA_VISIBLE_DEVICES|((LOCAL_|NODE_)?RANK|WORLD_SIZE)"
    r"|MLFLOW_(TRACKING_URI|EXPERIMENT_NAME)|(SLURM|OMP|REDI_LAB)_\w+"
)
_SHORTEST_SECRET = 8  # a shorter value stands in other texts by chance
_SHORTEST_WORD = 4

_interpolated: set[str] = set()


def remember_variable(name: str) -> None:
    """Hide the variable from now on: a configuration has interpolated it."""
    _interpolated.add(name)


def redact(text: str) -> str:
    """`text` without passwords of URLs, secrets of the environment and interpolated variables, fit to show and keep."""
    shown = _PASSWORD_IN_URL.sub(r"\1:***@", text)
    for value, placeholder in sorted(_hidden().items(), key=lambda item: -len(item[0])):
        if shown == value or len(value) >= _SHORTEST_SECRET:
            shown = shown.replace(value, placeholder)
        elif len(value) >= _SHORTEST_WORD:
            shown = re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", lambda _, to=placeholder: to, shown)  # type: ignore[misc]
    return shown


def redacted(content: Any) -> Any:
    """A JSON value with every text redacted; the path of an existing file stays, for it can be read off the disk."""
    if isinstance(content, str):
        return content if _is_path(content) else redact(content)
    if isinstance(content, Mapping):
        return {key: redacted(value) for key, value in content.items()}
    return [redacted(value) for value in content] if isinstance(content, list | tuple) else content


def secret_in(text: str) -> str | None:
    """Which secret a text holds, in words: a password in a URL, or the value of an environment variable."""
    if _PASSWORD_IN_URL.search(text):
        return "a password in a URL"
    return next((f"the value of the environment variable {name}" for name, v in _secrets().items() if v in text), None)


def _secrets() -> dict[str, str]:
    """Variables whose names say that nobody else should read them; PWD is the working directory."""
    return {
        name: value
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name.upper())
        and name != "PWD"
        and (len(value) >= _SHORTEST_SECRET or (value and name in _interpolated))
    }


def _hidden() -> dict[str, str]:
    """Values that no record shows, with what it shows instead."""
    values = {name: os.environ.get(name, "") for name in _interpolated if not _PUBLIC_NAME.fullmatch(name)}
    own = {value: f"${{oc.env:{name}}}" for name, value in values.items() if value and not _is_harmless(value)}
    return own | {value: f"<{name}>" for name, value in _secrets().items()}


def _is_harmless(value: str) -> bool:
    return _is_path(value) or (value.isdigit() and len(value) < _SHORTEST_WORD)


def _is_path(text: str) -> bool:
    return text.startswith("/") and "\0" not in text and os.path.exists(text)
