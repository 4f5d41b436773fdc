"""What a run ran on: commit, versions and machine, without a subprocess for the packages and without `os.environ`."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess
from functools import cache
from pathlib import Path

_PACKAGES = ("torch", "transformers", "pytorch-lightning", "datasets", "mlflow", "redi-lab")
_REPOSITORY = Path(__file__).resolve().parents[2]
_GIT_SECONDS = 10.0


def environment_tags() -> dict[str, str]:
    """Commit, python, platform and the versions of the packages that decide results, as MLflow tags.

    Packages that are not installed are left out; without a git checkout (an installed wheel) there is no commit.
    """
    tags = {"python": platform.python_version(), "platform": platform.platform()}
    for package in _PACKAGES:
        try:
            tags[f"version.{package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    commit = _git("rev-parse", "HEAD")
    if commit:
        tags["mlflow.source.git.commit"] = commit
        tags["git.dirty"] = str(bool(_git("status", "--porcelain"))).lower()
    return tags


@cache  # hundreds of files are parsed
def environment_text() -> str:
    """Every installed distribution as `name==version` lines, sorted."""
    found = {(str(item.metadata["Name"]), item.version) for item in importlib.metadata.distributions()}
    return "".join(f"{name}=={version}\n" for name, version in sorted(found, key=lambda pair: pair[0].lower()))


def _git(*arguments: str) -> str | None:
    if not (_REPOSITORY / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(_REPOSITORY), *arguments],
            capture_output=True,
            text=True,
            timeout=_GIT_SECONDS,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
