"""No secret stands in a configuration: it is written into every record of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from redi_lab.errors import UserError
from redi_lab.redaction import redact, redacted, secret_in

_NAMING = re.compile(r"(name|eval\.name|paths\..*|logger\..*)$")
_MAY_HOLD_PASSWORD = ("sweep.storage",)  # a database's only place for it; redacted wherever it is shown or kept


def check_secrets(content: Any) -> None:
    """Refuse secrets in a configuration, given as plain mappings and lists.

    Raises:
        UserError: some value holds one, or a name holds a variable that records hide; the message names the key and
            not the secret.
    """
    for key, value in _texts(content):
        secret = None if key in _MAY_HOLD_PASSWORD else secret_in(value)
        if secret is not None:
            raise UserError(
                f"{key}={redact(value)}: holds {secret}, which every record of the run would show; leave it in the"
                " environment, where the libraries find it (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD,"
                " PGPASSWORD or ~/.pgpass, HF_TOKEN)"
            )
        if _NAMING.match(key) and redacted(value) != value:
            raise UserError(
                f"{key}={redact(value)}: names what is written, so the variable cannot be hidden; write its value out,"
                " or call it REDI_LAB_NAME"
            )


def _texts(node: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, str):
        yield prefix, node
    elif isinstance(node, Mapping | list):
        for key, value in node.items() if isinstance(node, Mapping) else enumerate(node):
            yield from _texts(value, f"{prefix}.{key}" if prefix else str(key))
