"""JSON Lines, read strictly: every error names FILE:LINE.

    for where, values in read_jsonl(Path("traces.jsonl")):
        ...  # where == "traces.jsonl:1"

Stricter than `json.loads`: repeated keys, invalid UTF-8, half surrogate pairs, NaN and infinities are refused. Blank
lines and a byte order mark hold no data and are skipped.
"""

from __future__ import annotations

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NoReturn, cast

from redi_lab.errors import UserError

_GZIP = b"\x1f\x8b"
_LINE_BYTES = 64 * 2**20  # a thousand traces of 16,000 tokens fit
_MAYBE_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_jsonl(file: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """The objects of a .jsonl or .jsonl.gz file, each with its place `FILE:LINE`, one line in memory at a time.

    Raises:
        UserError: the file cannot be read, or a line is not one JSON object in UTF-8.
    """
    check_regular(file)
    opener = gzip.open if file.name.endswith(".gz") else open
    try:
        with cast(BinaryIO, opener(file, "rb")) as stream:
            # Bytes: only \n ends a line, U+2028 does not. Bounded: a gzip file of 1 MB may hold a line of 1 GB.
            for number, line in enumerate(iter(lambda: stream.readline(_LINE_BYTES + 1), b""), start=1):
                if len(line) > _LINE_BYTES:
                    raise UserError(
                        f"{file}:{number}: a line of more than {_LINE_BYTES:,} bytes; end each row with a line break,"
                        " and split rows as long as this"
                    )
                if number == 1 and line.startswith(_GZIP):
                    raise UserError(f"{file}: is compressed with gzip: name it {file.name}.gz, or decompress it")
                if line.strip():
                    where = f"{file}:{number}"
                    yield where, _parse_line(line, where, is_first=number == 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{file}: cannot be read: {error}; copy or compress it again") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}; give a file that can") from error


def check_regular(file: Path) -> None:
    """Refuse what can be read only once, or waits for a writer: files are checked, hashed and then read.

    Raises:
        UserError: it is a pipe or a device.
    """
    if file.exists() and not file.is_file() and not file.is_dir():
        raise UserError(f"{file}: is a pipe or a device, but it is read more than once; write it to a file first")


def _parse_line(line: bytes, where: str, *, is_first: bool) -> dict[str, object]:
    try:
        text = line.decode("utf-8-sig" if is_first else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: not valid UTF-8 (byte {error.start + 1} of the line): save it as UTF-8") from error
    values = parse_json(text, where)
    if not isinstance(values, dict):
        raise UserError(f"{where}: expected a JSON object on each line, got {text.strip()[:40]}")
    return values


def parse_json(text: str, where: str) -> object:
    """A JSON value, read as strictly as a line of `read_jsonl`.

    Args:
        text: the JSON.
        where: its place, for errors.

    Raises:
        UserError: it is not JSON, repeats a key, or holds half of a surrogate pair, NaN or an infinity.
    """
    try:
        value: object = json.loads(
            text, object_pairs_hook=_object_without_duplicates, parse_constant=_refuse_number, parse_float=_finite
        )
        if _MAYBE_SURROGATE.search(text):  # half a pair passes json, but no tokenizer
            json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        cut = "" if text.endswith("\n") else " (the file may be cut off here)"
        line = f"line {error.lineno}, " if error.lineno > 1 else ""
        raise UserError(
            f"{where}: not valid JSON: {error.msg} at {line}column {error.colno}{cut}; correct it"
        ) from error
    except UnicodeEncodeError as error:
        raise UserError(
            f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff), which is not text; correct it"
        ) from error
    except RecursionError as error:
        raise UserError(f"{where}: not usable as JSON: lists or objects nested too deeply; flatten them") from error
    except ValueError as error:  # ours, or of Python's limit on digits, whose advice is for programmers
        reason = str(error).partition("; use sys.")[0]
        raise UserError(f"{where}: not usable as JSON: {reason}") from error
    return value


def _finite(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _refuse_number(text)


def _refuse_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a JSON number; write null")


def _object_without_duplicates(items: list[tuple[str, object]]) -> dict[str, object]:
    values = dict(items)
    if len(values) != len(items):
        keys = [key for key, _ in items]
        repeated = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"key {json.dumps(repeated)} is there twice in one object; drop one")
    return values
