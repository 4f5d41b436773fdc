"""Passwords and tokens stay out of records: found in configurations, hidden in what is shown."""

from __future__ import annotations

import os
import re

_PASSWORD_IN_URL = re.compile(r"(://[^:/@\s]*):(?!\d+/)[^\s]*@")  # HOST:PORT/ is none, and a password may hold a /
_SECRET_NAME = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|PWD|KEY|CREDENTIALS)$")
_SHORTEST_SECRET = 8  # a shorter value stands in other texts by chance


def redact(text: str) -> str:
    """`text` without the passwords of URLs and without the secrets of the environment, as it may be shown and kept."""
    shown = _PASSWORD_IN_URL.sub(r"\1:***@", text)
    for name, value in _secrets().items():
        shown = shown.replace(value, f"<{name}>")
    return shown


def secret_in(text: str) -> str | None:
    """What secret a text holds, in words: a password in a URL, or the value of an environment variable."""
    if _PASSWORD_IN_URL.search(text):
        return "a password in a URL"
    return next((f"the value of the environment variable {name}" for name, v in _secrets().items() if v in text), None)


def _secrets() -> dict[str, str]:
    """Variables whose names say that nobody else should read them; PWD is the working directory."""
    return {
        name: value
        for name, value in os.environ.items()
        if _SECRET_NAME.search(name.upper()) and name != "PWD" and len(value) >= _SHORTEST_SECRET
    }
