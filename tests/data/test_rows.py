from __future__ import annotations

import json
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from redi_lab.data.rows import open_rows
from redi_lab.errors import UserError

ROWS: list[dict[str, object]] = [
    {"problem": f"p{i}", "generations": [{"text": "t", "correct": None}]} for i in range(5)
]


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, split: str = "train") -> list[dict[str, object]]:
    return [row.values for row in open_rows(str(path), split=split, revision=None).rows()]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.test.jsonl"])
def test_a_file_gives_its_rows_in_order(tmp_path: Path, name: str) -> None:
    assert read(write(tmp_path / name, ROWS)) == ROWS


def test_parquet_names_the_row_and_knows_its_length(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", ROWS * 40)
    table = open_rows(str(file), split="train", revision=None)
    assert table.num_rows() == 200
    assert [row.where for row in table.rows()][199] == f"{file}: row 200"


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
@pytest.mark.parametrize("place", ["", "data/"])
def test_a_folder_gives_the_files_of_the_split(tmp_path: Path, suffix: str, place: str) -> None:
    write(tmp_path / f"{place}train-00001-of-00002.{suffix}", ROWS[2:])
    write(tmp_path / f"{place}train-00000-of-00002.{suffix}", ROWS[:2])
    write(tmp_path / f"{place}test.{suffix}", ROWS[:1])
    assert read(tmp_path) == ROWS
    assert read(tmp_path, "test") == ROWS[:1]
    with pytest.raises(UserError, match="no file of split 'dev'; there is test, train"):
        read(tmp_path, "dev")


def test_ambiguous_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no \.jsonl"):
        read(tmp_path)
    write(tmp_path / "train.jsonl", ROWS)
    write(tmp_path / "more.jsonl", ROWS)
    with pytest.raises(UserError, match=r"named after a split, more\.jsonl is not"):
        read(tmp_path)
    write(tmp_path / "train.parquet", ROWS)
    with pytest.raises(UserError, match="side by side"):
        read(tmp_path)


def test_a_saved_dataset_is_read_whatever_its_format(tmp_path: Path) -> None:
    dataset = datasets.Dataset.from_list(ROWS)
    dataset.with_format("numpy").save_to_disk(tmp_path / "plain")
    datasets.DatasetDict(train=dataset, test=dataset.select([0])).save_to_disk(tmp_path / "splits")
    assert read(tmp_path / "plain") == ROWS
    assert read(tmp_path / "splits") == ROWS
    assert read(tmp_path / "splits", "test") == ROWS[:1]
    with pytest.raises(UserError, match="no split 'dev'; there is train, test"):
        read(tmp_path / "splits", "dev")


def test_a_saved_test_split_is_not_read_as_train(tmp_path: Path) -> None:
    datasets.Dataset.from_list(ROWS, split="test").save_to_disk(tmp_path / "d")
    with pytest.raises(UserError, match="holds split 'test', and split 'train' was asked for"):
        read(tmp_path / "d")
    assert read(tmp_path / "d", "test") == ROWS


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_file_without_rows_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="there is no row in it"):
        read(write(tmp_path / name, []))


def test_broken_files_are_refused_in_one_line(tmp_path: Path) -> None:
    file = write(tmp_path / "a.parquet", ROWS)
    whole = file.read_bytes()
    file.write_bytes(whole[:-10])
    with pytest.raises(UserError, match=r"a\.parquet: not a readable Parquet file") as caught:
        read(file)
    assert "\n" not in str(caught.value)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "dataset_info.json").write_text("{}")
    with pytest.raises(UserError, match="d: not a readable data set of save_to_disk"):
        read(tmp_path / "d")


@pytest.mark.parametrize("path", ["missing.jsonl", "data/missing.jsonl", "./missing", "/missing/folder", "missing"])
def test_a_missing_local_path_is_not_looked_up_on_the_hub(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redi_lab.data.rows.find_on_hub", lambda *_: pytest.fail("asked the hub"))
    with pytest.raises(UserError, match="there is no such file or folder"):
        open_rows(path, split="train", revision=None)


def test_options_that_do_nothing_are_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", ROWS)
    with pytest.raises(UserError, match="has no revisions"):
        open_rows(str(file), split="train", revision="main")
    text = tmp_path / "a.txt"
    text.write_text("x")
    with pytest.raises(UserError, match="cannot tell the format"):
        open_rows(str(text), split="train", revision=None)


def test_the_digest_follows_content_and_not_names(tmp_path: Path) -> None:
    first = open_rows(str(write(tmp_path / "a.jsonl", ROWS)), split="train", revision=None).digest()
    again = open_rows(str(write(tmp_path / "b.jsonl", ROWS)), split="train", revision=None).digest()
    other = open_rows(str(write(tmp_path / "c.jsonl", ROWS[:4])), split="train", revision=None).digest()
    assert first == again != other


@pytest.mark.parametrize(("name", "total"), [("a.jsonl", None), ("a.parquet", 300)])
def test_progress_is_reported(tmp_path: Path, name: str, total: int | None) -> None:
    calls: list[tuple[int, int | None]] = []
    table = open_rows(str(write(tmp_path / name, ROWS * 60)), split="train", revision=None)
    assert len(list(table.rows(lambda *call: calls.append(call)))) == 300
    assert calls == [(256, total), (300, total)]
