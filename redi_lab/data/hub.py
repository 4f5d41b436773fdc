"""Data sets of the Hugging Face hub at a fixed commit, found quickly or refused quickly.

Where the hub cannot be reached, a data set that `load_dataset` prepared earlier is read from its cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from redi_lab.errors import UserError, in_short
from redi_lab.hub import ask_hub

if TYPE_CHECKING:
    from datasets import Dataset
    from datasets.packaged_modules.cache.cache import Cache


@final
@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set of the hub, fixed to one commit."""

    path: str
    commit: str
    is_cached_only: bool

    def load(self, split: str) -> Dataset:
        """One split: downloaded (or found in the cache) and memory-mapped.

        Raises:
            UserError: the split does not exist, or the data cannot be downloaded or prepared.
        """
        import datasets

        try:
            if self.is_cached_only:
                return _cached_builder(self.path).as_dataset(split=split)
            return datasets.load_dataset(self.path, split=split, revision=self.commit)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise UserError(
                f"data.path={self.path!r}, split {split!r}, commit {self.commit}: could not be loaded:"
                f" {type(error).__name__}: {in_short(error)}"
            ) from error


def find_on_hub(path: str, revision: str | None) -> HubDataset:
    """Resolve a hub id to a commit, with at most one request.

    Args:
        path: OWNER/NAME.
        revision: branch, tag or commit; None for the default branch.

    Raises:
        UserError: the hub does not have it; or the hub cannot be reached (HF_HUB_OFFLINE counts as that) and the cache
            does not hold it.
    """
    answer = ask_hub("dataset", path, revision)
    if answer.commit is not None:
        return HubDataset(path, answer.commit, is_cached_only=False)
    at = f" at revision {revision!r}" if revision else ""
    remedy = "give a local copy with data.path=FOLDER_OR_FILE"
    if answer.is_missing:
        raise UserError(f"data.path={path!r}{at} is not a local file or folder, and {answer.reason}; {remedy}")
    unreachable = f"the Hugging Face hub cannot be reached ({answer.reason})"
    try:
        commit = str(_cached_builder(path).hash)
    except (OSError, ValueError) as error:
        raise UserError(
            f"data.path={path!r} is not on this disk, not in the cache of datasets, and {unreachable}: {remedy}"
        ) from error
    if revision not in (None, commit):
        raise UserError(
            f"data.path={path!r}{at}: {unreachable}, and the cache holds commit {commit}: drop it, or {remedy}"
        )
    return HubDataset(path, commit, is_cached_only=True)


def _cached_builder(path: str) -> Cache:
    from datasets.packaged_modules.cache.cache import Cache

    return Cache(repo_id=path, dataset_name=path.split("/")[-1], version="auto", hash="auto")
