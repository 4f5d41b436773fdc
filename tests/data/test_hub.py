"""The hub is played by a fake: no test asks the network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import datasets
import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from redi_lab.data.hub import find_on_hub
from redi_lab.data.rows import open_rows
from redi_lab.errors import UserError
from redi_lab.hub import ask_hub, is_hub_id

COMMIT = "0123456789" * 4


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def fill_cache(cache: Path) -> None:
    """Lay two rows where `load_dataset("org/Some-Data")` would leave them for COMMIT."""
    folder = cache / "org___some-data" / "default" / "0.0.0" / COMMIT
    folder.mkdir(parents=True)
    split = {"name": "train", "num_bytes": 16, "num_examples": 2, "dataset_name": "some-data"}
    info = datasets.DatasetInfo(
        features=datasets.Features({"a": datasets.Value("int64")}),
        config_name="default",
        dataset_name="some-data",
        version="0.0.0",
        splits={"train": split},
    )
    info.write_to_directory(str(folder))
    with datasets.arrow_writer.ArrowWriter(path=str(folder / "some-data-train.arrow")) as writer:
        writer.write_table(datasets.Dataset.from_dict({"a": [1, 2]}).data.table)
        writer.finalize()


@pytest.mark.parametrize("path", ["open-r1/OpenR1-Math-Raw", "a/b", "org/v1.5_data"])
def test_hub_ids_are_recognised(path: str) -> None:
    assert is_hub_id(path)


@pytest.mark.parametrize("path", ["b", "./a/b", "/a/b", "a/b/c", "~/a", "a/b\n", "a /b"])
def test_other_paths_are_not_hub_ids(path: str) -> None:
    assert not is_hub_id(path)


@pytest.mark.usefixtures("offline")
def test_without_hub_and_cache_the_error_says_what_to_do() -> None:
    with pytest.raises(UserError, match=r"data\.path='org/nothing'.* cannot be reached .*data\.path=FOLDER_OR_FILE"):
        find_on_hub("org/nothing", None)


@pytest.mark.usefixtures("offline")
def test_without_hub_the_cache_is_used(empty_cache: Path) -> None:
    fill_cache(empty_cache)
    table = open_rows("org/Some-Data", split="train", revision=None)
    assert table.digest() == COMMIT
    assert [row.values for row in table.rows()] == [{"a": 1}, {"a": 2}]
    assert find_on_hub("org/Some-Data", COMMIT).commit == COMMIT
    with pytest.raises(UserError, match=rf"at revision 'v2': .*the cache holds commit {COMMIT}"):
        find_on_hub("org/Some-Data", "v2")
    with pytest.raises(UserError, match=r"split 'test', commit .* could not be loaded"):
        list(open_rows("org/Some-Data", split="test", revision=None).rows())


def test_with_hub_the_commit_is_fixed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def dataset_info(_: object, path: str, *, revision: str | None, timeout: float, **__: object) -> SimpleNamespace:
        asked.append((path, revision, timeout <= 5))
        return SimpleNamespace(sha=COMMIT)

    def load_dataset(path: str, *, split: str, revision: str) -> datasets.Dataset:
        asked.append((path, split, revision))
        return datasets.Dataset.from_dict({"a": [1, 2]})

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    table = open_rows("org/data", split="dev", revision="v2")
    assert table.digest() == COMMIT
    assert asked == [("org/data", "v2", True)]  # nothing is downloaded for a digest
    assert table.num_rows() == 2
    assert [row.where for row in table.rows()] == [f"org/data@{COMMIT}: row 1", f"org/data@{COMMIT}: row 2"]
    assert asked[1:] == [("org/data", "dev", COMMIT)]


def test_a_data_set_that_the_hub_does_not_know(monkeypatch: pytest.MonkeyPatch) -> None:
    def dataset_info(*_: object, **__: object) -> None:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", dataset_info)
    with pytest.raises(UserError, match=r"'org/typo' at revision 'v1' is not a local .* has no such repository"):
        find_on_hub("org/typo", "v1")


def test_what_is_not_an_id_is_not_asked_for() -> None:
    answer = ask_hub("model", "not/an/id", None)
    assert (answer.commit, answer.is_missing) == (None, True)
    assert "OWNER/NAME" in answer.reason
