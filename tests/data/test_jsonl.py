from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from redi_lab.data.jsonl import read_jsonl
from redi_lab.errors import UserError


def test_only_newlines_end_a_line(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes('\ufeff{"a": "x\u2028y"}\r\n\n{"a": "\\ud83d\\ude00"}'.encode())
    assert list(read_jsonl(file)) == [(f"{file}:1", {"a": "x\u2028y"}), (f"{file}:3", {"a": "😀"})]


def test_gzip_is_read_and_a_cut_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl.gz"
    data = gzip.compress(b'{"a": 1}\n' * 1000)
    file.write_bytes(data)
    assert len(list(read_jsonl(file))) == 1000
    for broken in (data[:-12], b"no gzip"):
        file.write_bytes(broken)
        with pytest.raises(UserError, match=r"a\.jsonl\.gz: cannot be read"):
            list(read_jsonl(file))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": 1', r"not valid JSON: .* at column 8 \(the file may be cut off here\)"),
        (b'{"a": 1,}\n', r"not valid JSON: .* at column \d+; correct it$"),
        (b'{"a": "\xff"}', r"not valid UTF-8 \(byte 8 of the line\)"),
        (b'{"a": {"b": 1, "b": 2}}', 'not usable as JSON: key "b" is there twice'),
        (b'["a"]', r'expected a JSON object on each line, got \["a"\]'),
        (b'{"a": "\\ud83d"}', "holds half of a surrogate pair"),
        (b'{"a": ' + b"[" * 100_000, "not usable as JSON"),
        (b'{"a": ' + b"9" * 5000 + b"}", "not usable as JSON"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: bytes, message: str) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"a": 0}\n' + line)
    with pytest.raises(UserError, match=rf"a\.jsonl:2: {message}") as caught:
        list(read_jsonl(file))
    assert "\n" not in str(caught.value)
