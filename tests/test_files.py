"""Digests of files are remembered only while the files are what they were."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from redi_lab.files import file_digest


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose bytes are read for a digest, as often as they are."""
    names: list[str] = []
    original = hashlib.file_digest

    def counting(file: Any, *arguments: Any) -> Any:
        names.append(Path(file.name).name)
        return original(file, *arguments)

    monkeypatch.setattr(hashlib, "file_digest", counting)
    return names


def test_a_file_is_hashed_once(tmp_path: Path, hashed: list[str]) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"1")
    assert file_digest(path) == file_digest(path) == hashlib.sha256(b"1").hexdigest()
    assert hashed == ["a"]


def test_a_change_is_noticed_also_within_a_tick_of_the_clock(tmp_path: Path) -> None:
    path = tmp_path / "a"
    for number in range(20):
        content = b"%02d" % number
        path.write_bytes(content)  # the same size and inode
        assert file_digest(path) == hashlib.sha256(content).hexdigest()


def test_a_file_put_in_its_place_is_noticed(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    path.write_bytes(b"1")
    other.write_bytes(b"2")
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    first = file_digest(path)
    os.replace(other, path)
    assert file_digest(path) != first
