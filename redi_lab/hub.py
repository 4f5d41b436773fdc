"""What looks like a hub id, and one short request that says whether the Hugging Face hub has it.

    is_hub_id("open-r1/OpenR1-Math-Raw")  # True
    ask_hub("dataset", "open-r1/OpenR1-Math-Raw", revision=None).commit

The libraries of the hub retry for about half a minute on a machine without network; here the first answer counts.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from redi_lab.errors import in_short

TIMEOUT_S = 5.0  # without network the answer comes at once; this is for slow proxies
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class HubAnswer(NamedTuple):
    """The commit of a repository, or why there is none."""

    commit: str | None
    is_missing: bool = False
    """The hub does not have it, or not for this user; otherwise the hub could not be reached."""
    reason: str = ""


def is_hub_id(path: str) -> bool:
    """Whether `path` has the form OWNER/NAME of a repository on the hub."""
    return _HUB_ID.fullmatch(path) is not None


def ask_hub(kind: Literal["dataset", "model"], path: str, revision: str | None) -> HubAnswer:
    """The commit of a data set or model at a branch, tag or commit (None: the default branch), with one request."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    try:
        found = HfApi().repo_info(path, revision=revision, repo_type=kind, timeout=TIMEOUT_S)
    except HFValidationError:
        return HubAnswer(None, is_missing=True, reason="it is not a hub id (OWNER/NAME)")
    except (RepositoryNotFoundError, RevisionNotFoundError):
        reason = "the Hugging Face hub has no such repository, or not for you (`hf auth login`)"
        return HubAnswer(None, is_missing=True, reason=reason)
    except Exception as error:  # name resolution, proxy, TLS, time-out, offline mode: each HTTP library has its own
        return HubAnswer(None, reason=f"{type(error).__name__}: {in_short(error)}")
    return HubAnswer(found.sha, reason="it names no commit")
