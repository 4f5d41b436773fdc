"""JSON Lines, read strictly: every error names FILE:LINE.

    for where, values in read_jsonl(Path("traces.jsonl")):
        ...  # where == "traces.jsonl:1"

Stricter than `json.loads`: repeated keys, invalid UTF-8 and half surrogate pairs are refused. Blank lines and a byte
order mark hold no data and are skipped.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from redi_lab.errors import UserError

_MAYBE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_jsonl(file: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """The objects of a .jsonl or .jsonl.gz file, each with its place `FILE:LINE`, one line in memory at a time.

    Raises:
        UserError: the file cannot be read, or a line is not one JSON object in UTF-8.
    """
    opener = gzip.open if file.name.endswith(".gz") else open
    try:
        with cast(BinaryIO, opener(file, "rb")) as stream:
            for number, line in enumerate(stream, start=1):  # bytes: only \n ends a line, U+2028 does not
                if line.strip():
                    where = f"{file}:{number}"
                    yield where, _parse_line(line, where, is_first=number == 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{file}: cannot be read: {error}") from error


def _parse_line(line: bytes, where: str, *, is_first: bool) -> dict[str, object]:
    try:
        text = line.decode("utf-8-sig" if is_first else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not valid UTF-8 (byte {error.start + 1} of the line): save it as UTF-8") from error
    try:
        values = json.loads(text, object_pairs_hook=_object_without_duplicates)
        if _MAYBE_SURROGATE.search(text):  # half a pair passes json, but no tokenizer
            json.dumps(values, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        cut = "" if line.endswith(b"\n") else " (the file may be cut off here)"
        raise UserError(f"{where}: not valid JSON: {error.msg} at column {error.colno}{cut}") from error
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff), which is no text") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: not usable as JSON: {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a JSON object on each line, got {text.strip()[:40]}")
    return values


def _object_without_duplicates(items: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(items)
    if len(values) != len(items):
        keys = [key for key, _ in items]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {json.dumps(repeated)} is there twice in one object")
    return values
