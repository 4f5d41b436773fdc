"""A disk that is full while a verb writes: one line that says so, exit status 2, and nothing half-written."""

from __future__ import annotations

import errno
import json
import os
import re
from pathlib import Path

import pytest

from redi_lab.cli import main
from redi_lab.evaluation.samples import Sample, SampleStore
from redi_lab.files import explained, replacing, write_text
from redi_lab.run.study_storage import open_storage
from tests.callbacks.test_training_state import largest_file

_NO_ROOM = OSError(errno.ENOSPC, "No space left on device")


def _run(
    arguments: list[str], num_bytes: int, folder: Path, patch: pytest.MonkeyPatch, screen: pytest.CaptureFixture[str]
) -> None:
    """A command whose files cannot grow beyond a size, which to it is a full disk."""
    patch.setenv("REDI_LAB_OUTPUTS", str(folder / "outputs"))
    with pytest.raises(SystemExit) as ended, largest_file(num_bytes):
        main(arguments)
    told = screen.readouterr().err
    assert ended.value.code == 2, told
    assert re.fullmatch(r"redi_lab: /.*: the disk is full .*; make room, then .*\n", told), told
    files = [path for path in (folder / "outputs").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert files == []


def _rows(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_grade_says_that_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = _rows(tmp_path / "p.jsonl", *({"prediction": "2", "gold": "2", "more": "x" * 500} for _ in range(50)))
    _run(["grade", str(file)], 4096, tmp_path, monkeypatch, capsys)


def test_curate_says_that_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [{"text": f"{os.urandom(2000).hex()} {n}", "correct": n == 0} for n in range(2)]
    file = _rows(tmp_path / "t.jsonl", *({"problem": f"{n}+1?", "answer": "2", "generations": texts} for n in range(9)))
    arguments = ["curate", "data=jsonl", f"data.path={file}", "curation.num_workers=0"]
    _run(arguments, 2048, tmp_path, monkeypatch, capsys)


def test_a_file_that_has_no_room_leaves_the_old_one_and_no_other(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_text(path, "old")
    with pytest.raises(OSError, match=r"summary\.json"), largest_file(100):
        write_text(path, "x" * 1000)
    with pytest.raises(OSError, match=r"summary\.json"), replacing(path):
        raise _NO_ROOM
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_samples_that_have_no_room_are_not_there(tmp_path: Path) -> None:
    store = SampleStore(tmp_path, {"checkpoint": "a"})
    store.append([0], 0, [[Sample("short", "stop", 1)]])
    before = store.path.read_bytes()
    with pytest.raises(OSError, match=store.path.name), largest_file(500):
        store.append([1], 0, [[Sample("long" * 9000, "stop", 1)]])
    assert store.path.read_bytes() == before


def test_a_journal_of_a_study_that_had_no_room_can_be_read_on(tmp_path: Path) -> None:
    url = f"journal:///{tmp_path}/study.log"
    storage = open_storage(url)
    study = storage.create_new_study([], "s")
    size = (tmp_path / "study.log").stat().st_size
    with pytest.raises(OSError, match=r"study\.log"), largest_file(size + 50):
        storage.set_study_user_attr(study, "key", "x" * 1000)
    storage = open_storage(url)
    storage.set_study_user_attr(study, "key", "short")
    assert open_storage(url).get_study_user_attrs(study) == {"key": "short"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_whatever_tells_of_a_full_disk_is_explained(number: int) -> None:
    full = OSError(number, os.strerror(number))
    wrapped = RuntimeError("PytorchStreamWriter failed")
    wrapped.__cause__ = full
    for error in (full, wrapped, RuntimeError("(sqlite3.OperationalError) database or disk is full")):
        assert "the disk is full" in str(explained(error))
    assert explained(RuntimeError("a defect")) is None
    assert explained(FileNotFoundError(errno.ENOENT, "No such file")) is None
