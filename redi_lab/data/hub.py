"""Data sets of the Hugging Face hub, found quickly or refused quickly.

`datasets.load_dataset` retries for about 23 seconds on a machine without network before it looks into its cache; here
one cheap request decides. Without the hub, a data set that `load_dataset` prepared earlier is read from its cache.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, final

from redi_lab.errors import UserError, in_short

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset
    from datasets.packaged_modules.cache.cache import Cache

TIMEOUT_S = 5.0  # without network the answer comes at once; this is for slow proxies
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@final
@dataclass(frozen=True, slots=True)
class HubDataset:
    """A data set of the hub, fixed to one commit."""

    path: str
    commit: str
    is_cached_only: bool

    def load(self, split: str) -> Dataset:
        """Download (or find in the cache) one split, memory-mapped.

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
                f"data.path={self.path!r}, split {split!r}, commit {self.commit}: could not be loaded: {_line(error)}"
            ) from error

    def stream(self, split: str) -> IterableDataset:
        """One split, row by row as it is downloaded; nothing is kept on disk.

        Raises:
            UserError: the split does not exist, or the hub cannot be reached.
        """
        import datasets

        if self.is_cached_only:
            raise UserError(
                f"data.path={self.path!r}: streaming needs the Hugging Face hub, which cannot be reached, but the cache"
                " holds this data set: set data.source.streaming=false"
            )
        try:
            return datasets.load_dataset(self.path, split=split, revision=self.commit, streaming=True)
        except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
            raise UserError(
                f"data.path={self.path!r}, split {split!r}, commit {self.commit}: cannot be streamed: {_line(error)}"
            ) from error


def looks_like_hub_id(path: str) -> bool:
    """Whether `path` has the form NAMESPACE/NAME of a data set of the hub."""
    return _HUB_ID.fullmatch(path) is not None


def find_on_hub(path: str, revision: str | None) -> HubDataset:
    """Resolve a hub id to a commit, with at most one request.

    Args:
        path: NAMESPACE/NAME.
        revision: branch, tag or commit; None for the default branch.

    Raises:
        UserError: the hub says that it does not exist or is closed to you; or the hub cannot be reached (HF_HUB_OFFLINE
            counts as that) and the cache does not hold it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        commit = HfApi().dataset_info(path, revision=revision, timeout=TIMEOUT_S).sha
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise UserError(
            f"data.path={path!r}{at} is no local file or folder, and the Hugging Face hub has no such data set, or not "
            "for you (`hf auth login`): correct it, or give a local copy with data.path=FOLDER_OR_FILE"
        ) from error
    except Exception as error:  # name resolution, proxy, TLS, time-out, offline mode: each HTTP library has its own
        return _find_in_cache(path, revision, error)
    if commit is None:
        raise UserError(f"data.path={path!r}: the Hugging Face hub names no commit for it")
    return HubDataset(path, str(commit), is_cached_only=False)


def _find_in_cache(path: str, revision: str | None, reason: Exception) -> HubDataset:
    try:
        commit = str(_cached_builder(path).hash)
    except (OSError, ValueError) as error:
        raise UserError(
            f"data.path={path!r} is no local file or folder, is not in the cache of datasets, and the Hugging Face hub "
            f"cannot be reached ({_line(reason)}): give a local copy with data.path=FOLDER_OR_FILE"
        ) from error
    if revision not in (None, commit):
        raise UserError(
            f"data.path={path!r}: revision {revision!r} was asked for, the cache holds commit {commit}, and the "
            f"Hugging Face hub cannot be reached ({_line(reason)}): drop the revision, or give data.path=FOLDER_OR_FILE"
        )
    return HubDataset(path, commit, is_cached_only=True)


def _cached_builder(path: str) -> Cache:
    from datasets.packaged_modules.cache.cache import Cache

    return Cache(repo_id=path, dataset_name=path.split("/")[-1], version="auto", hash="auto")


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {in_short(error)}"
